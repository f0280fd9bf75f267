"""Results of runs: which belong together, after how many steps they are compared, and what is missing."""

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from harness.report.published import SuiteScores, label_of, main_methods
from harness.report.words import Change, by_size, choices, in_words, is_number, others, text, valued


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
        """The method, the choices that stand beside it, and other changes in brackets."""
        beside, rest = in_words(choices(self.changes)), in_words(others(self.changes))
        return ", ".join([label_of(self.method), *beside]) + (f" ({', '.join(rest)})" if rest else "")

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


Said = tuple[Group, str]  # a sentence about a group


class Evaluation(NamedTuple):
    scores: tuple[float, ...]  # score of each episode
    agent_steps: int
    frames: int = 0

    @property
    def mean(self) -> float:
        return sum(self.scores) / len(self.scores)


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
    path: Path  # score file
    evaluations: dict[int, Evaluation]  # by environment steps, ascending
    settings_hash: str = ""  # hash of the configuration without its seed; empty where not recorded
    total_agent_steps: int = 0  # length of the whole training; 0 where not recorded
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
        last = [each.mean for step, each in self.evaluations.items() if step <= env_steps][-self.averaged :]
        return sum(last) / len(last)

    @property
    def agent_steps(self) -> int:
        """Agent steps at the last evaluation; 0 without any."""
        return self.evaluations[self.env_steps].agent_steps if self.evaluations else 0

    @property
    def is_finished(self) -> bool:
        """True if the last evaluation is that of the whole training, as far as the score file tells."""
        return bool(self.evaluations) and self.agent_steps >= self.total_agent_steps


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

    @property
    def members(self) -> list[Run]:
        """The runs that count."""
        return [run for by_seed in self.runs.values() for run in by_seed.values()]

    def steps(self, task: str) -> int:
        """Environment steps after which the runs of `task` are evaluated."""
        return self.ends.get(task, self.env_steps)

    def seeds(self, tasks: Collection[str]) -> list[int]:
        """The seeds of all the group's runs of `tasks`."""
        return sorted({run.seed for run in (*self.members, *self.left_out) if run.task in tasks})

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

    def normalised(self, tasks: Iterable[str] | None = None) -> dict[str, list[float]]:
        """Normalised mean score of each run of these counted tasks, of all by default, by task."""
        scores = self.paired()
        return {task: list(scores[task].values()) for task in (scores if tasks is None else tasks)}

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
                reason = f"last evaluation after {run.agent_steps:,} of {run.total_agent_steps:,} agent steps"
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


def groups_of(runs: Iterable[Run]) -> list[Group]:
    """Groups of the runs, in the order of reports."""
    return sorted({run.group for run in runs}, key=lambda group: group.rank)


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
    values: dict[Any, list[str]] = {}  # values of groups that differ in a number alone; names of the others
    for group in groups:
        (key, value), *_ = group.changes or [("", "")]
        kind = (group.method, key) if len(group.changes) == 1 and is_number(value) else group
        values.setdefault(kind, []).append(text(value) if kind != group else group.name)
    names = [
        f"{label_of(kind[0])} ({valued(kind[1], ', '.join(texts))})" if isinstance(kind, tuple) else texts[0]
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
