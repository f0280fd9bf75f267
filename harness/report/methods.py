"""Methods with single runs side by side: published ones, our runs, and scores that a user gives.

Only methods of the same budget and protocol are ranked. A score list is a CSV with a row per run: method, task or game,
run, score, and env_steps where a suite has several budgets.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from statistics import mean, median, stdev
from typing import NamedTuple

from harness.config import ConfigError, require
from harness.logs import as_number, read_csv, require_whole
from harness.messages import nearest
from harness.report import statistics
from harness.report.cells import ABSENT, Number, count_cell, interval_cell, range_cell, score_cell, share
from harness.report.published import Recorded, SuiteScores, recorded
from harness.report.results import Run, collect_by_budget
from harness.report.table import OURS, YOURS, Table

METRICS = statistics.METRICS
APART = "apart"
MOST_TASKS = 3  # with a column of their own
FEW = 10  # runs; the interval of fewer says by how much it is too narrow


@dataclass(frozen=True)
class MethodRuns:
    """Single runs of a method after one budget."""

    suite: SuiteScores
    budget: str
    method: str
    raw: dict[str, list[float]] = field(default_factory=dict)  # task -> score of each run

    def normalised(self) -> dict[str, list[float]]:
        return {task: [self.suite.normalised(task, score) for score in runs] for task, runs in self.raw.items()}


def read_scores(files: Iterable[Path], suites: Mapping[str, SuiteScores]) -> list[MethodRuns]:
    """The methods of score lists. Raises ConfigError for a damaged or foreign one."""
    found: dict[tuple[str, str, str], MethodRuns] = {}
    runs = set()
    for file in files:
        for line, row in enumerate(_rows(file), start=2):
            where = f"{file}, line {line}"
            suite, task = _suite_of(where, row.get("task") or row.get("game") or "", suites)
            budget = _budget(where, suite, row.get("env_steps"))
            score = as_number(file, line, row, "score", float)
            run = (suite.name, budget, row["method"], task, row["run"])
            require(run not in runs, f"{where}: run {row['run']} of {row['method']} on {task} is there twice")
            runs.add(run)
            of_method = found.setdefault(run[:3], MethodRuns(suite, budget, row["method"]))
            of_method.raw.setdefault(task, []).append(score)
    return list(found.values())


def _rows(file: Path) -> list[dict[str, str]]:
    columns, rows = read_csv(file)
    header = {*columns}
    missing = {"method", "run", "score"} - header | ({"task"} if not header & {"task", "game"} else set())
    require(not missing, f"{file} is no list of scores: it lacks the columns {', '.join(sorted(missing))}")
    require(bool(rows), f"{file} has no rows")
    require_whole(file, rows)
    return rows


def _suite_of(where: str, task: str, suites: Mapping[str, SuiteScores]) -> tuple[SuiteScores, str]:
    for suite in suites.values():
        if task in suite.tasks:
            return suite, task
    close = nearest(task, [name for suite in suites.values() for name in suite.tasks])
    raise ConfigError(f"{where}: '{task}' has no published scores" + (f"; did you mean {close}?" if close else ""))


def _budget(where: str, suite: SuiteScores, env_steps: str | None) -> str:
    """Name of a budget; a suite whose only one is the end of training does not ask for its steps."""
    for name, steps in suite.budgets.items():
        if steps is None or env_steps == str(steps):
            return name
    known = " or ".join(map(str, suite.budgets.values()))
    raise ConfigError(f"{where}: env_steps is '{env_steps or ''}', published scores of {suite.label} are at {known}")


def own_scores(runs: Sequence[Run], suites: Mapping[str, SuiteScores]) -> list[MethodRuns]:
    """Our runs at the budgets of published scores."""
    return [
        MethodRuns(suite, budget, results.group.label, {task: raw[task] for task in results.counted})
        for suite in suites.values()
        for (budget, _), found in collect_by_budget(runs, suite).items()
        for results in found
        if results.counted and budget in suite.budgets
        for raw in [results.raw()]
    ]


def methods_tables(
    ours: Sequence[MethodRuns], theirs: Sequence[MethodRuns], suites: Mapping[str, SuiteScores], repeats: int
) -> dict[str, list[Table]]:
    """A table for each suite and budget with published single runs, by suite. theirs: scores that a user gives."""
    tables: dict[str, list[Table]] = {}
    for suite in suites.values():
        for budget in suite.budgets:
            known = [method for method in recorded() if (method.suite, method.budget) == (suite.name, budget)]
            if known:
                given = {
                    f"{whose}{scores.method}": scores
                    for whose, of_kind in ((OURS, ours), (YOURS, theirs))
                    for scores in of_kind
                    if (scores.suite, scores.budget) == (suite, budget)
                }
                tables.setdefault(suite.name, []).append(_table(suite, budget, known, given, repeats))
    return tables


class Row(NamedTuple):
    method: str
    level: float | None  # value that decides the rank; None: the row stands apart
    runs: Number
    spreads: Mapping[str, tuple[float, float | None]]  # task -> mean, standard deviation
    metrics: list[str]
    differs: str = ""


def _table(
    suite: SuiteScores, budget: str, known: Sequence[Recorded], given: Mapping[str, MethodRuns], repeats: int
) -> Table:
    by = "iqm" if suite.aggregates else "mean"
    shown = list(dict.fromkeys(task for scores in given.values() for task in scores.raw))[:MOST_TASKS]
    ranked = [_recorded(method, by) for method in known if method.comparable == "yes"]
    ranked += _printed(suite, budget, by, {method.method for method in known})
    ranked.sort(key=lambda row: -row.level)
    apart = [method for method in known if method.comparable != "yes"]
    apart.sort(key=lambda method: (method.comparable == "no", -method.intervals[by][0]))
    ours = (_given(suite, name, scores, by, repeats) for name, scores in given.items())
    rows = []
    for row in (*ours, *ranked, *(_recorded(method, by) for method in apart)):
        rank = APART if row.level is None else count_cell(1 + sum(other.level > row.level for other in ranked))
        means = [score_cell(*row.spreads[task]) if task in row.spreads else ABSENT for task in shown]
        rows.append([rank, row.method, row.runs, *means, *row.metrics, row.differs])
    header = ["rank", "method", f"runs of a {suite.task_word}", *shown, *METRICS.values(), "differs"]
    title = f"{suite.label}: methods with single runs" + (f", {budget}" if len(suite.budgets) > 1 else "")
    return Table(f"{suite.name}_methods_{budget}", title, header, rows, _notes(suite, by, shown, repeats), key=1)


def _given(suite: SuiteScores, name: str, scores: MethodRuns, by: str, repeats: int) -> Row:
    intervals = statistics.aggregate(scores.normalised(), repeats)
    spreads = {task: (mean(runs), stdev(runs) if len(runs) > 1 else None) for task, runs in scores.raw.items()}
    counts = [len(runs) for runs in scores.raw.values()]
    part = share(len(scores.raw), len(suite.tasks), f"{suite.task_word}s")
    name += f" ({part})" if part else ""
    metrics = [interval_cell(interval) for interval in intervals.values()]
    return Row(name, None if part else intervals[by][0], _runs(min(counts), max(counts)), spreads, metrics)


def _printed(suite: SuiteScores, budget: str, by: str, known: set[str]) -> Iterator[Row]:
    """Published methods without single runs: aggregates are those of their means but for printed ones."""
    for method in suite.methods:
        name = method.method
        means = {task: (row[name], None) for task, row in suite.means[budget].items() if name in row}
        if name not in known and method.seeds and len(means) == len(suite.tasks):
            scores = [suite.normalised(task, score) for task, (score, _) in means.items()]
            values = {"median": median(scores), "mean": mean(scores)}
            values |= {metric: printed[name] for metric, printed in suite.aggregates.items()}
            metrics = [score_cell(values[metric], digits=3) if metric in values else ABSENT for metric in METRICS]
            seeds = Number(method.seeds, method.seeds)
            yield Row(method.label, values[by], seeds, means, metrics, "single runs are not published")


def _recorded(method: Recorded, by: str) -> Row:
    metrics = [interval_cell(method.intervals[metric]) for metric in METRICS]
    spreads = {task: (mean, std) for task, (_, mean, std) in method.spreads.items()}
    ranked = method.comparable == "yes"
    level, differs = (method.intervals[by][0], "") if ranked else (None, method.differs)
    return Row(method.label, level, _runs(*method.runs), spreads, metrics, differs)


def _runs(fewest: int, most: int) -> Number:
    mark = f"{100 * statistics.too_narrow(fewest):.0f} % too narrow" if 1 < fewest < FEW else ""
    return range_cell(fewest, most, mark)


def _notes(suite: SuiteScores, by: str, shown: Sequence[str], repeats: int) -> list[str]:
    word = suite.task_word
    return [
        f"Ranked by {METRICS[by]}: methods of the budget and protocol of the papers' tables, and scores of ours and "
        f"yours that have all {word}s. Those apart have the same budget and differ otherwise, or cannot be compared.",
        f"IQM and optimality gap over runs × {word}s, median and mean of {word} means, of {suite.normalised_unit}s. "
        f"[low, high]: 95 % stratified bootstrap, 2,000 resamples; for scores of ours and yours {repeats:,}.",
        "An interval of few runs is too narrow, by the share beside their number.",
        *([f"{', '.join(shown)}: mean score ± standard deviation over runs."] if shown else []),
        "Sources, licences and protocols: results/published/intervals.csv.",
    ]


def improvement_table(ours: Sequence[MethodRuns], theirs: Sequence[MethodRuns], repeats: int) -> list[Table]:
    """Probability that a run of the first method given beats one of every other that has single runs here."""
    firsts = [scores for scores in theirs if scores.method == theirs[0].method]
    rows = []
    for first, other in product(firsts, [*theirs, *ours]):
        common = first.raw.keys() & other.raw.keys()
        if other is not first and (other.suite, other.budget) == (first.suite, first.budget) and common:
            found = statistics.probability_of_improvement(first.normalised(), other.normalised(), repeats)
            counts = [len(scores.raw[task]) for scores in (first, other) for task in common]
            where = f"{first.suite.label} {first.budget}" if len(first.suite.budgets) > 1 else first.suite.label
            cells = [count_cell(len(common)), _runs(min(counts), max(counts)), interval_cell(found)]
            rows.append([where, other.method, *cells])
    if not rows:
        return []
    name = firsts[0].method
    notes = [
        f"How likely a run of {name} scores above a run of the other on the same task; 0.5 is no difference. "
        f"[low, high]: 95 % stratified bootstrap, {repeats:,} resamples.",
        "Single runs of published methods are not part of this project: give their file after yours.",
    ]
    header = ["suite", "over", "tasks", "runs of a task", "probability"]
    return [Table("improvement", f"Probability of improvement of {name}", header, rows, notes, key=1)]
