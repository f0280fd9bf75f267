"""Score files, published scores, and the scale on which games and tasks are compared.

A score file is a CSV with a row per evaluation episode of one run. Its constant columns say which run that is, so the
file stands alone. A run's own `evaluations.csv` is its score file.
"""

import csv
import math
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path

from harness.config import ConfigError
from harness.run_folder import RunFolder, config_hash, read_config, read_manifest

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "results" / "published"
DMCONTROL_MAXIMUM = 1000.0  # the largest return of an episode
NAMES = ("benchmark", "task", "method", "preset", "fidelity", "seed", "config_hash")  # constant within a run
MAY_CHANGE = ("version", "hardware")  # when a run goes on elsewhere
OPTIONAL = ("settings_hash",)
PER_EPISODE = ("agent_steps", "env_steps", "frames", "episode", "score")


def read_table(name: str) -> list[dict[str, str]]:
    """The rows of `results/published/<name>.csv`, as text."""
    with open(PUBLISHED / f"{name}.csv", newline="") as file:
        return list(csv.DictReader(file))


@cache
def published(benchmark: str) -> dict[str, dict[str, float]]:
    """Mean score by row and method; read-only, sources are in `results/published/README.md`.

    "atari": rows are games, and `human` and `random` are among the methods. "dmcontrol": rows are tasks with the
    number of environment steps, such as finger_spin_100k; a method without a published score has no entry.
    Raises ValueError for another benchmark.
    """
    if benchmark == "atari":
        rows = read_table("atari100k")
        return {row.pop("game"): {method: float(score) for method, score in row.items()} for row in rows}
    if benchmark == "dmcontrol":
        return _dmcontrol("mean")
    raise ValueError(f"no published scores of '{benchmark}': choose atari or dmcontrol")


@cache
def published_std(benchmark: str) -> dict[str, dict[str, float]]:
    """Standard deviation over seeds, laid out as `published`, where it is known."""
    if benchmark == "atari":
        rows = read_table("atari100k_std")
        return {row.pop("game"): {method: float(std) for method, std in row.items()} for row in rows}
    return _dmcontrol("std")


def _dmcontrol(column: str) -> dict[str, dict[str, float]]:
    table: dict[str, dict[str, float]] = {}
    for row in read_table("dmcontrol"):
        scores = table.setdefault(f"{row['domain']}_{row['task']}_{row['benchmark']}", {})
        if row[column]:
            scores[row["method"]] = float(row[column])
    return table


def human_normalised(game: str, score: float) -> float:
    """0 for a random player's raw game score, 1 for a human's. Raises KeyError for a game without both scores."""
    constants = published("atari")[game]
    return (score - constants["random"]) / (constants["human"] - constants["random"])


def normalised(benchmark: str, task: str, score: float) -> float:
    """The scale of the aggregates: human-normalised on Atari, a share of the largest return on DMControl."""
    return human_normalised(task, score) if benchmark == "atari" else score / DMCONTROL_MAXIMUM


@dataclass(frozen=True)
class Group:
    """What may stand in one column: runs that differ in task and seed alone."""

    benchmark: str
    method: str
    preset: str
    fidelity: str

    @property
    def label(self) -> str:
        """The method and what sets it apart from the paper's size and the default fidelity."""
        parts = [{"mlr": "MLR", "none": "Baseline"}.get(self.method, self.method)]
        parts += [f"preset {self.preset}"] if self.preset != "full" else []
        parts += [f"fidelity {self.fidelity}"] if self.fidelity != "released" else []
        return ", ".join(parts)


@dataclass(frozen=True)
class Run:
    """One training run and its evaluations."""

    benchmark: str
    task: str
    method: str
    preset: str
    fidelity: str
    seed: int
    config_hash: str
    version: str
    hardware: str
    path: Path  # of the score file
    evaluations: dict[int, tuple[float, ...]]  # environment steps -> score of each episode, steps ascending
    agent_steps: dict[int, int]  # environment steps -> agent steps
    frames: dict[int, int] = field(default_factory=dict)  # environment steps -> frames
    settings_hash: str = ""  # of the configuration without its seed; empty where not recorded
    total_agent_steps: int = 0  # of the whole training; 0 where not recorded

    @property
    def group(self) -> Group:
        return Group(self.benchmark, self.method, self.preset, self.fidelity)

    @property
    def env_steps(self) -> int:
        """Environment steps at the last evaluation; 0 without any."""
        return max(self.evaluations, default=0)

    @property
    def final(self) -> float:
        """Mean score of the last evaluation; NaN without any."""
        score = self.mean_at(self.env_steps)
        return math.nan if score is None else score

    def mean_at(self, env_steps: int) -> float | None:
        """Mean score of the evaluation after `env_steps`, None without one."""
        scores = self.evaluations.get(env_steps)
        return sum(scores) / len(scores) if scores else None

    def normalised_at(self, env_steps: int) -> float | None:
        score = self.mean_at(env_steps)
        return None if score is None else normalised(self.benchmark, self.task, score)

    @property
    def is_finished(self) -> bool:
        """Whether the last evaluation is that of the whole training, as far as the score file tells."""
        return bool(self.evaluations) and self.agent_steps[self.env_steps] >= self.total_agent_steps


@dataclass(frozen=True)
class Results:
    """The runs of a group that were evaluated after the same number of environment steps, and what is missing."""

    group: Group
    env_steps: int
    runs: dict[str, dict[int, Run]]  # task -> seed
    left_out: tuple[Run, ...]  # runs without an evaluation at that step

    @property
    def seeds(self) -> list[int]:
        """The seeds of all the group's runs."""
        runs = [run for by_seed in self.runs.values() for run in by_seed.values()]
        return sorted({run.seed for run in (*runs, *self.left_out)})

    def score(self, task: str, seed: int) -> float:
        """Mean raw score of a run."""
        return self.runs[task][seed].mean_at(self.env_steps)

    def raw(self) -> dict[str, list[float]]:
        """Mean raw score of each run, by task."""
        return {task: [self.score(task, seed) for seed in runs] for task, runs in self.runs.items()}

    def paired(self) -> dict[str, dict[int, float]]:
        """Normalised mean score of each run, by task and seed."""
        return {
            task: {seed: run.normalised_at(self.env_steps) for seed, run in runs.items()}
            for task, runs in self.runs.items()
        }

    def normalised(self) -> dict[str, list[float]]:
        """Normalised mean score of each run, by task."""
        return {task: list(scores.values()) for task, scores in self.paired().items()}

    def missing(self) -> list[str]:
        """What the group lacks, a sentence each; empty if every task has a run of every seed."""
        tasks = benchmark_tasks(self.group.benchmark)
        absent = [task for task in tasks if task not in self.runs]
        kind = "games" if self.group.benchmark == "atari" else "tasks"
        sentences = []
        if absent:
            names = f" ({', '.join(absent)})" if len(absent) <= 6 else ""
            sentences.append(f"{len(absent)} of {len(tasks)} {kind} have no result{names}")
        for task, runs in self.runs.items():
            seeds = [str(seed) for seed in self.seeds if seed not in runs]
            if seeds:
                sentences.append(f"{task} has {len(runs)} of {len(self.seeds)} seeds (not {', '.join(seeds)})")
        for run in self.left_out:
            reason = f"it has no evaluation after {self.env_steps:,} environment steps"
            if not run.evaluations:
                reason = "it has no evaluation yet"
            elif not run.is_finished:
                reason = f"its last evaluation is after {run.agent_steps[run.env_steps]:,} of "
                reason += f"{run.total_agent_steps:,} agent steps"
            sentences.append(f"{run.task} with seed {run.seed} does not count: {reason}")
        return [f"{self.group.label}: {sentence}" for sentence in sentences]


def collect(runs: Iterable[Run], env_steps: int | None = None) -> list[Results]:
    """The results of each group after `env_steps` environment steps, by default at the end of its training.

    A run that has not come that far is left out and named by `missing`.
    """
    groups: dict[Group, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.group, []).append(run)
    found = []
    for group in sorted(groups, key=_rank):
        members = groups[group]
        steps = env_steps or max((run.env_steps for run in members if run.is_finished), default=0)
        tasks: dict[str, dict[int, Run]] = {}
        for run in members:
            if steps in run.evaluations and (env_steps or run.is_finished):
                tasks.setdefault(run.task, {})[run.seed] = run
        left_out = tuple(run for run in members if run not in tasks.get(run.task, {}).values())
        found.append(Results(group, steps, tasks, left_out))
    return found


def _rank(group: Group) -> tuple:
    """The paper's size and fidelity come first, and in each of them MLR and the Baseline."""
    known = {"mlr": 0, "none": 1}.get(group.method, 2)
    return (group.benchmark, group.preset != "full", group.preset, group.fidelity != "released", known, group.method)


def benchmark_tasks(benchmark: str) -> list[str]:
    """The games or tasks of the published tables, in their order."""
    if benchmark == "atari":
        return list(published("atari"))
    return list(dict.fromkeys(f"{row['domain']}_{row['task']}" for row in read_table("dmcontrol")))


def score_columns(config: dict, manifest: dict) -> dict[str, str | int]:
    """The constant columns of a score file, from a run folder's configuration and manifest.

    The method is the auxiliary, or the experiment where that has a name of its own.
    """
    usual = f"{config['aux']}-{config['fidelity']}-{config['preset']}"
    start = manifest["starts"][-1]
    gpu = start["gpu"] if config["device"] != "cpu" else None
    return {
        "benchmark": config["benchmark"],
        "task": config["game"] if "game" in config else config["task"],
        "method": config["aux"] if config["experiment"] == usual else config["experiment"],
        "preset": config["preset"],
        "fidelity": config["fidelity"],
        "seed": config["seed"],
        "config_hash": manifest["config_hash"],
        "settings_hash": config_hash({key: value for key, value in config.items() if key != "seed"}),
        "total_agent_steps": _agent_steps(config),
        "version": _version(manifest.get("version"), start["git_commit"], start["git_dirty"]),
        "hardware": gpu or f"{start['cpu']}, {start['torch_threads']} torch threads",
        "source": "run",
    }


def _agent_steps(config: dict) -> int:
    """Of the whole training: a DMControl run is as long as its environment steps say."""
    if config["benchmark"] == "dmcontrol":
        return config["env_steps"] // config["environment"]["action_repeat"]
    return config["agent_steps"]


def project_version() -> str:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def _version(project: str | None, commit: str | None, dirty: bool) -> str:
    commit = f"{commit[:7]}{'.dirty' if dirty else ''}" if commit else None
    return "+".join(part for part in (project, commit) if part) or "unknown"


def read_runs(paths: Iterable[str | Path]) -> list[Run]:
    """The runs of run folders, score files, and folders that are searched for both; sorted by what they are.

    Raises ConfigError, in one line, for a path without runs, a damaged or foreign file, the same run in two files, and
    runs that would share a column with other settings.
    """
    files: dict[Path, None] = {}
    for path in map(Path, paths):
        found = list(_score_files(path))
        if not found:
            raise ConfigError(f"{path} holds neither a run folder nor a score file")
        files |= dict.fromkeys(found)
    runs = [read_run(file) for file in {file.resolve(): file for file in files}.values()]
    runs.sort(key=lambda run: (run.benchmark, run.task, run.method, run.preset, run.fidelity, run.seed))
    _refuse_mixtures(runs)
    return runs


def read_run(path: Path) -> Run:
    """The run of one score file; columns that an `evaluations.csv` lacks come from its run folder.

    An evaluation with fewer episodes than it was to have is left out, as in a run that goes on. Raises ConfigError.
    """
    columns, episodes = _from_run_folder(path)
    rows = _read_rows(path, columns)
    evaluations: dict[int, dict[int, float]] = {}
    agent_steps, frames = {}, {}
    for line, row in enumerate(rows, start=2):
        step, episode = _number(path, line, row, "env_steps"), _number(path, line, row, "episode")
        scores = evaluations.setdefault(step, {})
        if episode in scores:
            raise ConfigError(f"{path}, line {line}: episode {episode} after {step} environment steps is there twice")
        scores[episode] = _number(path, line, row, "score", float)
        agent_steps[step] = _number(path, line, row, "agent_steps")
        frames[step] = _number(path, line, row, "frames")
    episodes = episodes or max(map(len, evaluations.values()))
    complete = [step for step in sorted(evaluations) if sorted(evaluations[step]) == list(range(episodes))]
    rows = rows or [columns]
    names = {name: _constant(path, rows, name) for name in (*NAMES, *OPTIONAL)}
    names["seed"] = _number(path, 2, names, "seed")
    totals = [(line, row) for line, row in enumerate(rows, start=2) if row.get("total_agent_steps")]
    names["total_agent_steps"] = max(  # a run may have been prolonged
        (_number(path, line, row, "total_agent_steps") for line, row in totals), default=0
    )
    _require_known(path, names["benchmark"], names["task"])
    return Run(
        **names,
        **{name: "; ".join(dict.fromkeys(row[name] for row in rows)) for name in MAY_CHANGE},
        path=path,
        evaluations={step: tuple(evaluations[step][i] for i in range(episodes)) for step in complete},
        agent_steps={step: agent_steps[step] for step in complete},
        frames={step: frames[step] for step in complete},
    )


def _score_files(path: Path) -> Iterator[Path]:
    """Score files at or below `path`; in a run folder only evaluations.csv is one."""
    if path.is_file():
        yield path
    elif (path / "config.yaml").is_file():
        yield RunFolder(path).evaluations
    elif path.is_dir() and path.resolve() != PUBLISHED:
        for entry in sorted(path.iterdir()):
            if entry.is_dir():
                yield from _score_files(entry)
            elif entry.suffix == ".csv" and {"task", "episode", "score"} <= _header(entry):
                yield entry


def _header(path: Path) -> set[str]:
    with path.open(newline="", errors="replace") as file:
        return set(next(csv.reader(file), []))


def _from_run_folder(path: Path) -> tuple[dict[str, str], int | None]:
    """Constant columns and episodes of an evaluation, if `path` lies in a run folder; else nothing."""
    folder = RunFolder(path.parent)
    if path.name != folder.evaluations.name or not folder.config.is_file():
        return {}, None
    try:
        config = read_config(folder.path)
        columns = score_columns(config, read_manifest(folder.path))
        return {name: str(value) for name, value in columns.items()}, config["evaluation"]["episodes"]
    except (LookupError, TypeError) as error:
        raise ConfigError(f"{folder.path} has a damaged config.yaml or manifest.json: it lacks {error}") from error


def _read_rows(path: Path, columns: dict[str, str]) -> list[dict[str, str]]:
    """Rows with every column filled, from `columns` where the file has none. Raises ConfigError."""
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file, strict=True)
            header, rows = reader.fieldnames or [], list(reader)
    except FileNotFoundError:
        header, rows = [], []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if columns and rows and None in rows[-1].values():
        del rows[-1]  # the run was stopped while it wrote; its evaluation is pending
    if not rows:
        if columns:
            return []
        raise ConfigError(f"{path} has no rows")
    missing = [name for name in (*NAMES, *MAY_CHANGE, *PER_EPISODE) if name not in {*header, *columns}]
    if missing:
        raise ConfigError(f"{path} is no score file: it lacks the columns {', '.join(missing)}")
    for line, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise ConfigError(f"{path}, line {line}: the row and the header differ in length")
    filled = {name: "" for name in OPTIONAL} | columns
    return [{**row, **{name: value for name, value in filled.items() if not row.get(name)}} for row in rows]


def _number(path: Path, line: int, row: dict[str, str], name: str, kind: type = int) -> int | float:
    try:
        value = kind(row[name])
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or (kind is int and value < 0):
        raise ConfigError(f"{path}, line {line}: {name} is '{row[name]}', which is no number for it")
    return value


def _constant(path: Path, rows: list[dict[str, str]], name: str) -> str:
    values = list(dict.fromkeys(row[name] for row in rows))
    if len(values) > 1:
        raise ConfigError(f"{path} holds several runs ({name} is {', '.join(values[:3])}): give each a file of its own")
    if not values[0] and name not in OPTIONAL:
        raise ConfigError(f"{path} has an empty column {name}")
    return values[0]


def _require_known(path: Path, benchmark: str, task: str) -> None:
    if benchmark not in ("atari", "dmcontrol"):
        raise ConfigError(f"{path} is of benchmark '{benchmark}', which is neither atari nor dmcontrol")
    if task not in benchmark_tasks(benchmark):
        raise ConfigError(f"{path} is of '{task}', which the published tables in {PUBLISHED} do not have")


def _refuse_mixtures(runs: list[Run]) -> None:
    """`runs` are sorted, so runs of one group and task are neighbours."""
    for first, second in pairwise(runs):
        if (first.group, first.task) != (second.group, second.task):
            continue
        name = f"{first.group.label} on {first.task}"
        if first.seed == second.seed:
            what = "the same run" if first.config_hash == second.config_hash else "runs of different settings"
            raise ConfigError(
                f"{first.path} and {second.path} are {what}, {name} with seed {first.seed}: leave one out"
            )
        if first.settings_hash and second.settings_hash and first.settings_hash != second.settings_hash:
            raise ConfigError(
                f"{first.path} and {second.path} are both {name} but differ in their settings: "
                "leave one out, or train it under a name of its own, experiment=NAME"
            )
