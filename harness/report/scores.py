"""Score files, and the runs that they hold.

A score file is a CSV with a row per evaluation episode of one run. Its constant columns say which run that is, so the
file stands alone. A run's own `evaluations.csv` is its score file.
"""

import csv
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from harness.config import ConfigError
from harness.files import PUBLISHED
from harness.logs import CsvLog, as_number, read_csv, require_whole
from harness.report.published import SuiteScores, label_of
from harness.report.results import Evaluation, Group, Run
from harness.report.words import MOST, NAME, Change, by_size, choice_groups, others
from harness.run_folder import RunFolder, config_hash, episodes_beside, read_config, read_manifest, renamed

NAMES = ("suite", "task", "method", "preset", "fidelity", "seed", "config_hash")  # constant within a run
HASHES = ("config_hash", "settings_hash")  # a run folder's configuration decides, whatever version wrote the rows
MAY_CHANGE = ("version", "hardware")  # when a run goes on elsewhere
OPTIONAL = ("settings_hash",)
NO_SUITES: Mapping[str, SuiteScores] = {}
PER_EPISODE = ("agent_steps", "env_steps", "frames", "episode", "score")


@dataclass(frozen=True)
class Identity:
    """A run as reports know it."""

    method: str
    changes: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)  # key -> value of the base, and its own
    name: str = ""  # experiment's name; empty for the usual one


Identify = Callable[[dict], Identity]


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
    runs = [_named(run, run.name, run.changes) if (run.group, run.name) in mixed else run for run in runs]
    shared: dict[Group, set[Change]] = {}
    for run in runs:
        shared.setdefault(run.group.size, set(run.own)).intersection_update(run.own)
    runs = [replace(run, shared=tuple(sorted(shared[run.group.size], key=by_size))) for run in runs]
    names: dict[Group, str] = {}  # the first of each, so that equal changes have one name
    for run in runs:
        names[run.group] = min(names.get(run.group, run.name), run.name)
    return [
        _named(run, names[run.group], {*dict(run.shared), *choice_groups()}) if len(others(run.own)) > MOST else run
        for run in runs
    ]


def _named(run: Run, name: str, kept: Container[str]) -> Run:
    """The run with a name, if it has one, in the place of other changes than those that are kept."""
    changes = {key: pair for key, pair in run.changes.items() if key in kept}
    return replace(run, changes=changes | {NAME: ("", name)}) if name else run


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
    found: dict[int, dict[int, float]] = {}  # score of each episode by environment steps
    units = {}
    for line, row in enumerate(rows, start=2):
        step, episode = (as_number(path, line, row, name) for name in ("env_steps", "episode"))
        scores = found.setdefault(step, {})
        if episode in scores:
            raise ConfigError(f"{path}, line {line}: episode {episode} after {step} environment steps is there twice")
        scores[episode] = as_number(path, line, row, suite.measure, float)
        units[step] = [as_number(path, line, row, name) for name in ("agent_steps", "frames")]
    order = range(episodes or max(map(len, found.values())))
    rows = rows or [columns]
    names = {name: _constant(path, rows, name) for name in (*NAMES, *OPTIONAL)}
    names["seed"] = as_number(path, 2, names, "seed")
    totals = [(line, row) for line, row in enumerate(rows, start=2) if row.get("total_agent_steps")]
    names["total_agent_steps"] = max(  # a run may have been prolonged
        (as_number(path, line, row, "total_agent_steps") for line, row in totals), default=0
    )
    identity = identity or _identity_of_rows(names)
    return Run(
        **(names | {"method": identity.method}),
        **{name: "; ".join(dict.fromkeys(row[name] for row in rows)) for name in MAY_CHANGE},
        path=path,
        evaluations={
            step: Evaluation(tuple(scores[i] for i in order), *units[step])
            for step, scores in sorted(found.items())
            if sorted(scores) == list(order)
        },
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
        manifest = read_manifest(folder.path)
        config = _as_computed(read_config(folder.path), manifest)
        columns = score_columns(config, manifest)
        identity = identify(config) if identify else None
        return {name: str(value) for name, value in columns.items()}, config["evaluation"]["episodes"], identity
    except (LookupError, TypeError) as error:
        raise ConfigError(f"{folder.path} has a damaged config.yaml or manifest.json: it lacks {error}") from error


def _as_computed(config: dict, manifest: dict) -> dict:
    """The configuration with tf32, the default, in the place of fp32 on a CPU: there both are float32."""
    on_gpu = config["device"] != "cpu" and manifest["starts"][-1]["gpu"]
    return config if on_gpu or config["precision"] != "fp32" else config | {"precision": "tf32"}


def _read_rows(path: Path, columns: dict[str, str]) -> list[dict[str, str]]:
    """Rows under today's names with every column filled, from `columns` where the file has none. Raises ConfigError."""
    log = CsvLog(path) if columns else None  # leaves out a line that a run is writing, or that a kill cut short
    header, rows = (log.columns, log.read()) if log else read_csv(path)
    if not rows:
        if columns:
            return []
        raise ConfigError(f"{path} has no rows")
    header = {renamed()["columns"].get(name, name) for name in header}
    missing = [name for name in (*NAMES, *MAY_CHANGE, *PER_EPISODE) if name not in {*header, *columns}]
    if missing:
        raise ConfigError(f"{path} is no score file: it lacks the columns {', '.join(missing)}")
    require_whole(path, rows)
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
