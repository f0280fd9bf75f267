"""Results that may be compared: of one size, after the same steps; and which with which."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from harness.report.published import SuiteScores, main_methods, references
from harness.report.results import Change, Results, Run, collect, compared_at, groups_of
from harness.report.words import by_size, is_number, words

Family = list[Results]  # results that may be compared


def families(runs: Sequence[Run], suites: Mapping[str, SuiteScores]) -> Iterator[Family]:
    """Counted results that may be compared: same suite, preset, fidelity, shared changes and environment steps."""
    for size in dict.fromkeys(group.size for group in groups_of(runs)):
        members = [run for run in runs if run.group.size == size]
        for env_steps in compared_at(members, suites[size.suite], collect(members, suites)):
            found = [results for results in collect(members, suites, env_steps) if results.counted]
            if found:
                yield found


def common_tasks(members: Sequence[Results]) -> list[str]:
    """Counted tasks that all have, in the order of the suite."""
    return [task for task in members[0].suite.tasks if all(task in results.runs for results in members)]


def methods(family: Sequence[Results]) -> Iterator[tuple[str, list[Results]]]:
    """The main methods, and the others with the reference; each with a name. Arms of ablations are in neither."""
    main = main_methods()
    arms = {arm.group for ablation in ablations(family) for arm in ablation.arms.values()}
    shown = [results for results in family if results.group not in arms]
    pair = [results for results in shown if results.group.method in main]
    others = [results for results in shown if results.group.method not in main]
    if pair:
        yield "", pair
    if others:
        yield "others", [*(results for results in pair if results.group.method == main[0]), *others]


def differences(family: Sequence[Results]) -> Iterator[tuple[Results, list[Results]]]:
    """References, each with the results that differ from it in method or changes; those that differ least alone."""
    for method, left_out in references(family[0].group.suite):
        candidates = [results for results in family if results.group.method == method]
        found: dict[int, list[Results]] = {}
        for results in family:
            changes = set(results.group.changes)
            parts = [each for each in candidates if each is not results and changes >= set(each.group.changes)]
            if parts and results.group.method not in left_out:
                nearest = max(parts, key=lambda each: len(each.group.changes))
                found.setdefault(candidates.index(nearest), []).append(results)
        yield from ((candidates[i], found[i]) for i in sorted(found))


class Axis(NamedTuple):
    """Results by the value of a key, the base's own value among them."""

    key: str
    own: float
    results: dict[float, Results]


@dataclass(frozen=True)
class Ablation:
    """A base, and results with one change more, by that change."""

    base: Results
    arms: Mapping[Change, Results]

    def axes(self) -> list[Axis]:
        """Keys with several arms whose values are all numbers."""
        found = []
        for key in dict.fromkeys(key for key, _ in self.arms):
            by_value = {value: arm for (name, value), arm in self.arms.items() if name == key}
            own = {run.changes[key][0] for arm in by_value.values() for run in arm.members}
            if len(by_value) > 1 and len(own) == 1 and all(map(is_number, (*by_value, *own))):
                found.append(Axis(key, *own, dict(sorted({**dict.fromkeys(own, self.base), **by_value}.items()))))
        return found

    def others(self) -> dict[str, Results]:
        """The base and the arms without an axis, by label; empty without such an arm."""
        keys = [axis.key for axis in self.axes()]
        arms = {words(*change): arm for change, arm in self.arms.items() if change[0] not in keys}
        return {f"{self.base.group.name} (base)": self.base, **arms} if arms else {}

    def rows(self) -> list[tuple[str, Results]]:
        """All by label; the base is there for each axis, in its place."""
        rows = list(self.others().items())
        for key, own, results in self.axes():
            rows += [(words(key, value) + " (base)" * (value == own), each) for value, each in results.items()]
        return rows


def ablations(family: Sequence[Results]) -> list[Ablation]:
    """Bases that have arms; an arm has a task and seed in common with its base."""
    found = []
    for base in family:
        arms = {}
        for results in family:
            changes, own = set(results.group.changes), set(base.group.changes)
            is_arm = results.group.method == base.group.method and changes > own and len(changes) == len(own) + 1
            if is_arm and _seeds(results) & _seeds(base):
                arms |= dict.fromkeys(changes - own, results)
        if arms:
            found.append(Ablation(base, {change: arms[change] for change in sorted(arms, key=by_size)}))
    return found


def _seeds(results: Results) -> set[tuple[str, int]]:
    return {(run.task, run.seed) for run in results.members}
