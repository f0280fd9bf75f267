"""Published scores: tables of papers beside which runs are set, and the scale on which a suite's tasks are compared.

The CSV files lie in `results/published/`, whose README.md has their sources. Suites build their `SuiteScores` of them.
"""

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

from harness.files import PUBLISHED

REFERENCE, BASELINE, PLAYER = "reference", "baseline", "player"  # the roles of methods.csv
AT_THE_END = {"": None}

ByBudget = Mapping[str, Mapping[str, Mapping[str, float]]]  # budget -> task -> method -> score


def read_table(name: str) -> list[dict[str, str]]:
    """The rows of `results/published/<name>.csv`, as text."""
    with open(PUBLISHED / f"{name}.csv", newline="") as file:
        return list(csv.DictReader(file))


@dataclass(frozen=True)
class PublishedMethod:
    """A row of methods.csv, all text."""

    suite: str
    method: str  # its name in the suite's tables
    label: str
    auxiliary: str  # trains its loss here; empty without one
    role: str  # reference: others are compared with it; baseline: its partner; player: learns nothing
    seeds: str  # number of seeds behind a score; empty where not stated
    source: str  # empty: no score is published, so the row has label and role of runs here


@cache
def published_methods() -> tuple[PublishedMethod, ...]:
    return tuple(PublishedMethod(**row) for row in read_table("methods"))


@cache
def main_methods() -> tuple[str, ...]:
    """Methods of score files that stand for the reference and its baseline, in this order."""
    found = [method for role in (REFERENCE, BASELINE) for method in published_methods() if method.role == role]
    return tuple(dict.fromkeys(method.auxiliary for method in found))


def references(suite: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Methods that others are compared with, and those that each leaves out, so that every pair stands once."""
    roles = {method.role: method.auxiliary for method in published_methods() if method.suite == suite}
    if not {REFERENCE, BASELINE} <= roles.keys():
        return ()
    return (roles[BASELINE], ()), (roles[REFERENCE], (roles[BASELINE],))


@cache
def label_of(method: str) -> str:
    """The display name of a score file's method: the published one, or its own."""
    return next((row.label for row in published_methods() if method and row.auxiliary == method), method)


@dataclass(frozen=True)
class Recorded:
    """A published method whose single runs are known: a row of intervals.csv, and its rows of spreads.csv."""

    suite: str
    budget: str
    method: str
    label: str
    runs: tuple[int, int]  # fewest and most runs of a task
    intervals: Mapping[str, tuple[float, float, float]]  # metric -> point, low, high
    comparable: str  # yes; budget: the same budget, otherwise different; no
    differs: str
    spreads: Mapping[str, tuple[int, float, float]]  # task -> runs, mean, standard deviation


@cache
def recorded() -> tuple[Recorded, ...]:
    spreads: dict[tuple[str, ...], dict] = {}
    for row in read_table("spreads"):
        by_task = spreads.setdefault((row["suite"], row["budget"], row["method"]), {})
        by_task[row["task"]] = int(row["runs"]), float(row["mean"]), float(row["std"])
    found = []
    for row in read_table("intervals"):
        names = {name: row[name] for name in ("suite", "budget", "method", "label", "comparable", "differs")}
        by_task = spreads[row["suite"], row["budget"], row["method"]]
        counts = [runs for runs, *_ in by_task.values()]
        intervals = {
            metric: tuple(float(row[f"{metric}{end}"]) for end in ("", "_low", "_high"))
            for metric in ("iqm", "median", "mean", "optimality_gap")
        }
        found.append(Recorded(**names, runs=(min(counts), max(counts)), intervals=intervals, spreads=by_task))
    return tuple(found)


def _no_scale(task: str, score: float) -> None:
    return None


def _nothing(task: str) -> dict:
    return {}


class Curve(NamedTuple):
    """A published learning curve."""

    env_steps: tuple[int, ...]
    means: tuple[float, ...]
    deviations: tuple[float, ...]  # over seeds


@dataclass(frozen=True)
class SuiteScores:
    """Facts about a suite that its score files lack. The defaults are those of a suite without published scores.

    Tasks outside `tasks` are reported too, but no aggregate counts them: published aggregates are over other tasks.
    """

    name: str  # in configurations and score files
    label: str
    title: str = ""  # title of the suite's table
    legend: str = "Tasks: mean return of an episode, ± standard deviation over seeds."
    task_word: str = "task"
    score_unit: str = "return"
    measure: str = "score"  # column of score files, of an episode, that results are means of
    limits: tuple[float, float] | None = None  # ends of the measure's range, where it has both; axes show all of it
    averaged_evaluations: int = 1  # a result is the mean of as many of the last evaluations
    normalised_unit: str = ""
    tasks: tuple[str, ...] = ()  # tasks of the published tables, in their order
    # Name -> environment steps; None is the end of training, whatever its length.
    budgets: Mapping[str, int | None] = field(default_factory=lambda: AT_THE_END)
    means: ByBudget = field(default_factory=dict)
    deviations: ByBudget = field(default_factory=dict)  # over seeds, where known
    aggregates: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # over runs, as printed, by method
    file: str = ""  # CSV file of the means
    score_digits: int = 1  # decimals of published scores
    mean_digits: int = 3  # decimals of means over tasks
    normalised: Callable[[str, float], float | None] = _no_scale  # task, score; None where the task has no scale
    averaged: Callable[[str, float], float | None] = _no_scale  # the scale of the table's means over tasks
    references: Callable[[str], dict[str, float]] = _nothing  # task -> scores to compare with, by name
    curves: Callable[[str], Mapping[str, Curve]] = _nothing  # task -> published curves, by label

    @property
    def run_digits(self) -> int:
        """Digits of the scores of runs here."""
        return max(self.score_digits, 1)

    @property
    def methods(self) -> tuple[PublishedMethod, ...]:
        """The published methods, in the order of their columns."""
        return tuple(method for method in published_methods() if method.suite == self.name and method.source)

    def means_of(self, auxiliary: str, task: str) -> dict[str, float]:
        """Published means of the method that `auxiliary` trains, by budget; empty where there are none."""
        rows = {budget: tasks.get(task, {}) for budget, tasks in self.means.items()}
        names = [method.method for method in self.methods if method.auxiliary == auxiliary]
        return {budget: row[name] for budget, row in rows.items() for name in names if name in row}
