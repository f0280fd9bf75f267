"""Score files, and the results of the runs that they hold.

A score file is a CSV with a row per evaluation episode of one run. Its constant columns say which run that is, so the
file stands alone. A run's own `evaluations.csv` is its score file.
"""

import csv
import math
import re
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

from harness.config import ConfigError
from harness.files import PUBLISHED
from harness.report.published import SuiteScores, label_of, main_methods
from harness.report.words import MOST, NAME, by_size, in_words, is_number, quantity, text
from harness.run_folder import RunFolder, config_hash, episodes_beside, read_config, read_manifest, renamed

NAMES = ("suite", "task", "method", "preset", "fidelity", "seed", "config_hash")  # constant within a run
HASHES = ("config_hash", "settings_hash")  # a run folder's configuration decides, whatever version wrote the rows
MAY_CHANGE = ("version", "hardware")  # when a run goes on elsewhere
OPTIONAL = ("settings_hash",)
Change = tuple[str, Any]  # a key of the configuration, and its value where it is not the base's
NO_SUITES: Mapping[str, SuiteScores] = {}
PER_EPISODE = ("agent_steps", "env_steps", "frames", "episode", "score")


@dataclass(frozen=True)
class Group:
    """Runs of one column: they differ in task and seed alone."""

    suite: str
    method: str
    preset: str
    fidelity: str
    changes: tuple[Change, ...] = ()  # from the method's base
    shared: tuple[Change, ...] = ()  # changes that all groups of its suite, preset and fidelity have

    @property
    def label(self) -> str:
        """The method, its changes, and what sets it apart from the paper's size and the default fidelity."""
        return ", ".join([self.name, *self.apart])

    @property
    def name(self) -> str:
        return label_of(self.method) + (f" ({', '.join(in_words(self.changes))})" if self.changes else "")

    @property
    def apart(self) -> tuple[str, ...]:
        """Differences from the paper's size and the default fidelity."""
        preset = [f"preset {self.preset}"] if self.preset != "full" else []
        fidelity = [f"fidelity {self.fidelity}"] if self.fidelity != "released" else []
        return (*preset, *fidelity, *in_words(self.shared))

    @property
    def size(self) -> "Group":
        """Equal for groups that may be compared."""
        return replace(self, method="", changes=())

    @property
    def rank(self) -> tuple:
        """The paper's size and fidelity come first, and in each of them its own methods."""
        main = main_methods()
        order = main.index(self.method) if self.method in main else len(main)
        size = self.suite, self.preset != "full", self.preset, self.fidelity != "released"
        return *size, len(self.changes), order, self.method, [by_size(change) for change in self.changes]


@dataclass(frozen=True)
class Identity:
    """A run as reports know it."""

    method: str
    changes: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)  # key -> value of the base, and its own
    name: str = ""  # of its experiment; empty for the usual one


Identify = Callable[[dict], Identity]

Said = tuple[Group, str]  # a sentence about a group


@dataclass(frozen=True)
class Run:
    """One training run and its evaluations."""

    suite: str
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
    averaged: int = 1  # evaluations that a result is the mean of
    changes: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)  # as in Identity
    name: str = ""
    shared: tuple[Change, ...] = ()

    @property
    def group(self) -> Group:
        return Group(self.suite, self.method, self.preset, self.fidelity, self.own, self.shared)

    @property
    def own(self) -> tuple[Change, ...]:
        """Changes that not all runs of the suite, preset and fidelity share."""
        changes = {(key, value) for key, (_, value) in self.changes.items()} - set(self.shared)
        return tuple(sorted(changes, key=by_size))

    @property
    def env_steps(self) -> int:
        """Environment steps at the last evaluation; 0 without any."""
        return max(self.evaluations, default=0)

    @property
    def final(self) -> float:
        """Result after the last evaluation; NaN without any."""
        return self.result_at(self.env_steps) if self.evaluations else math.nan

    def result_at(self, env_steps: int) -> float:
        """Mean of the last evaluations up to `env_steps`, each the mean of its episodes."""
        last = [step for step in self.evaluations if step <= env_steps][-self.averaged :]
        return sum(self.mean_at(step) for step in last) / len(last)

    def mean_at(self, env_steps: int) -> float | None:
        """Mean score of the evaluation after `env_steps`, None without one."""
        scores = self.evaluations.get(env_steps)
        return sum(scores) / len(scores) if scores else None

    @property
    def is_finished(self) -> bool:
        """True if the last evaluation is that of the whole training, as far as the score file tells."""
        return bool(self.evaluations) and self.agent_steps[self.env_steps] >= self.total_agent_steps


@dataclass(frozen=True)
class Results:
    """The runs of a group that were evaluated after the same number of environment steps, and what is missing.

    Tasks that no aggregate counts may have a length of their own.
    """

    suite: SuiteScores
    group: Group
    env_steps: int
    runs: dict[str, dict[int, Run]]  # task -> seed
    left_out: tuple[Run, ...]  # runs without an evaluation at that step
    ends: Mapping[str, int] = field(default_factory=dict)  # environment steps of tasks that end elsewhere

    @property
    def stem(self) -> str:
        """Part of the names of files that compare these results with others."""
        return f"{self.group.suite}_{self.group.preset}_{self.group.fidelity}_{self.env_steps}"

    @property
    def own_stem(self) -> str:
        """The stem with method and changes, so that no other group has it."""
        return re.sub(r"\W+", "_", "_".join([self.stem, self.group.method, *map(str, chain(*self.group.changes))]))

    def steps(self, task: str) -> int:
        """Environment steps after which the runs of `task` are evaluated."""
        return self.ends.get(task, self.env_steps)

    def seeds(self, tasks: Collection[str]) -> list[int]:
        """The seeds of all the group's runs of `tasks`."""
        runs = [run for by_seed in self.runs.values() for run in by_seed.values()]
        return sorted({run.seed for run in (*runs, *self.left_out) if run.task in tasks})

    def expected(self, task: str) -> list[int]:
        """The seeds that `task` should have: those of any task that aggregates count, or else its own."""
        return self.seeds(self.suite.tasks if task in self.suite.tasks else (task,))

    @property
    def counted(self) -> dict[str, dict[int, Run]]:
        """The runs of the published tables' tasks, which aggregates are over."""
        return {task: runs for task, runs in self.runs.items() if task in self.suite.tasks}

    def score(self, task: str, seed: int) -> float:
        """Raw result of a run."""
        return self.runs[task][seed].result_at(self.steps(task))

    def raw(self) -> dict[str, list[float]]:
        """Raw result of each run, by task."""
        return {task: [self.score(task, seed) for seed in runs] for task, runs in self.runs.items()}

    def paired(self) -> dict[str, dict[int, float]]:
        """Normalised mean score of each counted run, by task and seed."""
        return self._on_scale(self.suite.normalised)

    def normalised(self) -> dict[str, list[float]]:
        """Normalised mean score of each counted run, by task."""
        return {task: list(scores.values()) for task, scores in self.paired().items()}

    def averaged(self) -> dict[str, list[float]]:
        """Mean score of each counted run on the scale of the suite's table, by task."""
        return {task: list(scores.values()) for task, scores in self._on_scale(self.suite.averaged).items()}

    def _on_scale(self, scale: Callable[[str, float], float | None]) -> dict[str, dict[int, float]]:
        return {
            task: {seed: scale(task, self.score(task, seed)) for seed in runs} for task, runs in self.counted.items()
        }

    def missing(self) -> list[Said]:
        """Gaps of the group and runs left out; empty if the published tasks have all seeds.

        Nothing is missing at a budget that ends before or after all of the group's runs: its cells are empty.
        """
        if not self.runs and self.left_out and all(run.is_finished for run in self.left_out):
            return []
        tasks, kind = self.suite.tasks, f"{self.suite.task_word}s"
        absent = [task for task in tasks if task not in self.runs]
        sentences = []
        if absent:
            names = f" ({', '.join(absent)})" if len(absent) <= 6 else ""
            sentences.append(f"{len(absent)} of {len(tasks)} {kind} have no result{names}")
        for task, runs in self.runs.items():
            expected = self.expected(task)
            lacking = [str(seed) for seed in expected if seed not in runs]
            if lacking:
                sentences.append(f"{task} has {len(runs)} of {len(expected)} seeds (not {', '.join(lacking)})")
        reasons: dict[str, dict[str, list[str]]] = {}  # reason -> task -> seeds
        for run in self.left_out:
            reason = f"no evaluation after {self.steps(run.task):,} environment steps"
            if not run.evaluations:
                reason = "no evaluation yet"
            elif not run.is_finished:
                reason = f"last evaluation after {run.agent_steps[run.env_steps]:,} of "
                reason += f"{run.total_agent_steps:,} agent steps"
            reasons.setdefault(reason, {}).setdefault(run.task, []).append(str(run.seed))
        for reason, by_task in reasons.items():
            which = "; ".join(f"{task} with seed {', '.join(seeds)}" for task, seeds in by_task.items())
            sentences.append(f"not counted, {reason}: {which}")
        return [*((self.group, sentence) for sentence in sentences), *self.uncounted()]

    def uncounted(self) -> list[Said]:
        """A sentence on the tasks that no aggregate counts; none if there are no such tasks."""
        further = [task for task in self.runs if task not in self.suite.tasks]
        many = len(further) > 1
        sentence = f"{', '.join(further)} {'have' if many else 'has'} no published scores, so no aggregate counts "
        return [(self.group, f"{sentence}{'them' if many else 'it'}")] if further else []


def said_once(entries: Iterable[Said]) -> list[str]:
    """Sentences with the labels of all groups that they are about."""
    groups: dict[str, dict[Group, None]] = {}
    for group, sentence in entries:
        groups.setdefault(sentence, {})[group] = None
    return [f"{labels(about)}: {sentence}." for sentence, about in groups.items()]


def labels(groups: Collection[Group]) -> str:
    """Labels of groups, with what sets all of them apart from the paper's size named once."""
    apart = list(dict.fromkeys(group.apart for group in groups))
    if len(apart) > 1:
        return "; ".join(labels([group for group in groups if group.apart == kind]) for kind in apart)
    values: dict[Any, list[str]] = {}  # of groups that differ in a number alone
    for group in groups:
        (key, value), *_ = group.changes or [("", "")]
        kind = (group.method, key) if len(group.changes) == 1 and is_number(value) else group
        values.setdefault(kind, []).append(text(value) if kind != group else group.name)
    names = [
        f"{label_of(kind[0])} ({quantity(kind[1])} {', '.join(texts)})" if isinstance(kind, tuple) else texts[0]
        for kind, texts in values.items()
    ]
    return ", ".join([*names, *apart[0]])


def every_suite(runs: Iterable[Run], suites: Mapping[str, SuiteScores]) -> dict[str, SuiteScores]:
    """`suites`, and one without published scores for each other suite that a run names."""
    others = dict.fromkeys(run.suite for run in runs if run.suite not in suites)
    return {**suites, **{name: SuiteScores(name, name.capitalize()) for name in others}}


def collect(runs: Iterable[Run], suites: Mapping[str, SuiteScores], env_steps: int | None = None) -> list[Results]:
    """The results of each group after `env_steps` environment steps, by default at the end of its training.

    A run that has not come that far is left out and named by `missing`. The end is that of the tasks that aggregates
    count, and for each other task its own.
    """
    groups: dict[Group, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.group, []).append(run)
    found = []
    for group in sorted(groups, key=lambda group: group.rank):
        members, suite = groups[group], suites[group.suite]
        steps = env_steps or _end(run for run in members if run.task in suite.tasks) or _end(members)
        further = {run.task for run in members if run.task not in suite.tasks and not env_steps}
        ends = {task: _end(run for run in members if run.task == task) for task in sorted(further)}
        ends = {task: end for task, end in ends.items() if end != steps}
        tasks: dict[str, dict[int, Run]] = {}
        for run in members:
            if ends.get(run.task, steps) in run.evaluations and (env_steps or run.is_finished):
                tasks.setdefault(run.task, {})[run.seed] = run
        left_out = tuple(run for run in members if run not in tasks.get(run.task, {}).values())
        found.append(Results(suite, group, steps, tasks, left_out, ends))
    return found


def _end(runs: Iterable[Run]) -> int:
    """Environment steps of the longest finished run; 0 without one."""
    return max((run.env_steps for run in runs if run.is_finished), default=0)


def collect_by_budget(runs: Iterable[Run], suite: SuiteScores) -> dict[tuple[str, int | None], list[Results]]:
    """Results of a suite's runs by budget: its name and environment steps.

    Runs whose training ends elsewhere than at a budget follow under nameless budgets of their own.
    """
    own = [run for run in runs if run.suite == suite.name]
    found = {budget: collect(own, {suite.name: suite}, budget[1]) for budget in suite.budgets.items()}
    if None not in suite.budgets.values():
        ended = collect(own, {suite.name: suite})
        ends = {results.steps(task) for results in ended for task in results.runs}
        for end in sorted(ends - set(suite.budgets.values())):
            found["", end] = [part for results in ended if (part := _ended_at(results, end)).runs]
    return found


def _ended_at(results: Results, end: int) -> Results:
    """The part of `results` whose training ends after `end` environment steps."""
    runs = {task: runs for task, runs in results.runs.items() if results.steps(task) == end}
    left_out = tuple(run for run in results.left_out if results.steps(run.task) == end)
    return replace(results, env_steps=end, runs=runs, left_out=left_out, ends={})


def compared_at(runs: Iterable[Run], suite: SuiteScores, groups: Iterable[Results]) -> list[int]:
    """Environment steps after which runs are compared: the ends of `groups`, and budgets that one of `runs` passes."""
    ends = {results.env_steps for results in groups if results.runs}
    budgets = {steps for steps in suite.budgets.values() if any(steps in run.evaluations for run in runs)}
    return sorted(ends | budgets)


def score_columns(config: dict, manifest: dict) -> dict[str, str | int]:
    """The constant columns of a score file, from a run folder's configuration and manifest.

    The method is the auxiliary or the run's method, whichever the experiment begins with. An experiment of another name
    stands for itself.
    """
    names = (config["auxiliary"], config.get("method"))
    usual = {f"{name}-{config['fidelity']}-{config['preset']}": name for name in names}
    start = manifest["starts"][-1]
    gpu = start["gpu"] if config["device"] != "cpu" else None
    return {
        "suite": config["suite"],
        "task": config["task"],
        "method": usual.get(config["experiment"], config["experiment"]),
        "preset": config["preset"],
        "fidelity": config["fidelity"],
        "seed": config["seed"],
        "config_hash": config_hash(config),
        "settings_hash": config_hash({key: value for key, value in config.items() if key != "seed"}),
        "total_agent_steps": manifest.get("agent_steps", ""),  # an older version noted them in the rows alone
        "version": _version(manifest.get("version"), start["git_commit"], start["git_dirty"]),
        "hardware": gpu or f"{start['cpu']}, {start['torch_threads']} torch threads",
        "source": "run",
    }


def _version(project: str | None, commit: str | None, dirty: bool) -> str:
    commit = f"{commit[:7]}{'.dirty' if dirty else ''}" if commit else None
    return "+".join(part for part in (project, commit) if part) or "unknown"


def read_runs(
    paths: Iterable[str | Path], suites: Mapping[str, SuiteScores] = NO_SUITES, identify: Identify | None = None
) -> list[Run]:
    """The runs of run folders, score files, and folders that are searched for both; sorted by what they are.

    suites: by name, whose measures count; the score is that of any other. identify: tells the method and the changes of
    a run folder's configuration; without it, and without the folder, the rows name the method.
    Raises ConfigError for a path without runs, and for a damaged or foreign file. It also does for the same run in two
    files, and for runs of one column whose settings differ.
    """
    files: dict[Path, None] = {}
    for path in map(Path, paths):
        found = list(score_files(path))
        if not found:
            raise ConfigError(f"{path} holds neither a run folder nor a score file")
        files |= dict.fromkeys(found)
    runs = [read_run(file, suites, identify) for file in {file.resolve(): file for file in files}.values()]
    runs = _told_apart(runs)
    runs.sort(key=lambda run: (run.suite, run.task, run.method, run.preset, run.fidelity, run.group.rank, run.seed))
    _refuse_mixtures(runs)
    return runs


def _told_apart(runs: list[Run]) -> list[Run]:
    """Names tell runs apart that would be mixed; changes of all runs that may be compared belong to none."""
    cells: dict[tuple[Group, str], list[Run]] = {}
    for run in runs:
        cells.setdefault((run.group, run.task), []).append(run)
    mixed = {
        (group, run.name)
        for (group, _), cell in cells.items()
        if len({run.seed for run in cell}) < len(cell) or len({run.settings_hash for run in cell}) > 1
        for run in cell
    }
    runs = [_named(run, run.changes) if (run.group, run.name) in mixed else run for run in runs]
    shared: dict[Group, set[Change]] = {}
    for run in runs:
        shared.setdefault(run.group.size, set(run.own)).intersection_update(run.own)
    runs = [replace(run, shared=tuple(sorted(shared[run.group.size], key=by_size))) for run in runs]
    return [_named(run, dict(run.shared).keys()) if len(run.own) > MOST else run for run in runs]


def _named(run: Run, kept: Container[str]) -> Run:
    """The run with its experiment's name, if it has one, in the place of other changes than those that are kept."""
    changes = {key: pair for key, pair in run.changes.items() if key in kept}
    return replace(run, changes=changes | {NAME: ("", run.name)}) if run.name else run


def read_run(path: Path, suites: Mapping[str, SuiteScores] = NO_SUITES, identify: Identify | None = None) -> Run:
    """The run of one score file; columns that an `evaluations.csv` lacks come from its run folder.

    An evaluation with fewer episodes than it was to have is left out, as in a run that goes on. Raises ConfigError.
    """
    columns, episodes, identity = _from_run_folder(path, identify)
    rows = _read_rows(path, columns)
    suite_name = rows[0]["suite"] if rows else columns["suite"]
    suite = suites.get(suite_name, SuiteScores(suite_name, suite_name))
    if rows and suite.measure not in rows[0]:
        raise ConfigError(f"{path} is no score file of {suite.label}: it lacks the column {suite.measure}")
    evaluations: dict[int, dict[int, float]] = {}
    agent_steps, frames = {}, {}
    for line, row in enumerate(rows, start=2):
        step, episode = _number(path, line, row, "env_steps"), _number(path, line, row, "episode")
        scores = evaluations.setdefault(step, {})
        if episode in scores:
            raise ConfigError(f"{path}, line {line}: episode {episode} after {step} environment steps is there twice")
        scores[episode] = _number(path, line, row, suite.measure, float)
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
    identity = identity or _identity_of_rows(names)
    return Run(
        **(names | {"method": identity.method}),
        **{name: "; ".join(dict.fromkeys(row[name] for row in rows)) for name in MAY_CHANGE},
        path=path,
        evaluations={step: tuple(evaluations[step][i] for i in range(episodes)) for step in complete},
        agent_steps={step: agent_steps[step] for step in complete},
        frames={step: frames[step] for step in complete},
        averaged=suite.averaged_evaluations,
        changes=identity.changes,
        name=identity.name,
    )


def score_files(path: Path) -> Iterator[Path]:
    """Score files at or below `path`; in a run folder only evaluations.csv is one."""
    if path.is_file():
        yield path
    elif (path / "config.yaml").is_file():
        yield RunFolder(path).evaluations
    elif path.is_dir() and path.resolve() != PUBLISHED:
        for entry in sorted(path.iterdir()):
            if entry.is_dir() and entry.suffix != episodes_beside(entry).suffix:
                yield from score_files(entry)
            elif entry.suffix == ".csv" and {"task", "episode", "score"} <= _header(entry):
                yield entry


def _header(path: Path) -> set[str]:
    with path.open(newline="", errors="replace") as file:
        return set(next(csv.reader(file), []))


def _identity_of_rows(names: Mapping[str, str]) -> Identity:
    """The method that rows name: a known one, or one with the name of its experiment."""
    name = names["method"].removesuffix(f"-{names['preset']}").removesuffix(f"-{names['fidelity']}")
    method, _, rest = name.partition("-")
    if rest and label_of(method) != method:
        return Identity(method, {NAME: ("", rest)})
    return Identity(names["method"])


def _from_run_folder(path: Path, identify: Identify | None) -> tuple[dict[str, str], int | None, Identity | None]:
    """Constant columns, episodes of an evaluation and identity, if `path` lies in a run folder; else nothing."""
    folder = RunFolder(path.parent)
    if path.name != folder.evaluations.name or not folder.config.is_file():
        return {}, None, None
    try:
        config = read_config(folder.path)
        columns = score_columns(config, read_manifest(folder.path))
        identity = identify(config) if identify else None
        return {name: str(value) for name, value in columns.items()}, config["evaluation"]["episodes"], identity
    except (LookupError, TypeError) as error:
        raise ConfigError(f"{folder.path} has a damaged config.yaml or manifest.json: it lacks {error}") from error


def _read_rows(path: Path, columns: dict[str, str]) -> list[dict[str, str]]:
    """Rows under today's names with every column filled, from `columns` where the file has none. Raises ConfigError."""
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
    header = {renamed()["columns"].get(name, name) for name in header}
    missing = [name for name in (*NAMES, *MAY_CHANGE, *PER_EPISODE) if name not in {*header, *columns}]
    if missing:
        raise ConfigError(f"{path} is no score file: it lacks the columns {', '.join(missing)}")
    for line, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise ConfigError(f"{path}, line {line}: the row and the header differ in length")
    defaults = {name: "" for name in OPTIONAL} | columns
    decided = {name: columns[name] for name in HASHES if columns}
    rows = [_with_todays_names(row) for row in rows]
    return [
        {**row, **{name: value for name, value in defaults.items() if not row.get(name)}, **decided} for row in rows
    ]


def _with_todays_names(row: dict[str, str]) -> dict[str, str]:
    """The row; a file that two versions wrote has a column under both names, one of them empty."""
    new: dict[str, str] = {}
    for name, value in row.items():
        name = renamed()["columns"].get(name, name)
        new[name] = new.get(name) or value
    return new


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
