"""Results that may be compared: of one size, after the same steps; and which with which."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.report.published import SuiteScores, main_methods, references
from harness.report.scores import Change, Results, Run, collect, compared_at
from harness.report.words import by_size, is_number, words


def families(runs: Sequence[Run], suites: Mapping[str, SuiteScores]) -> Iterator[list[Results]]:
    """Counted results that may be compared: same suite, preset, fidelity, shared changes and environment steps."""
    for size in dict.fromkeys(group.size for group in sorted({run.group for run in runs}, key=lambda each: each.rank)):
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


@dataclass(frozen=True)
class Ablation:
    """A base, and results with one change more, by that change."""

    base: Results
    arms: dict[Change, Results]

    def numbers(self) -> dict[str, float]:
        """The base's value of keys with several arms whose values are numbers; it is the same on all tasks."""
        found = {}
        for key in dict.fromkeys(key for key, _ in self.arms):
            arms = {value: arm for (name, value), arm in self.arms.items() if name == key}
            bases = {
                run.changes[key][0] for arm in arms.values() for runs in arm.runs.values() for run in runs.values()
            }
            if len(arms) > 1 and len(bases) == 1 and all(map(is_number, (*arms, *bases))):
                (found[key],) = bases
        return found

    def rows(self, key: str | None = None) -> dict[str, Results]:
        """Results by label, in the order of a key's values with the base in its place; or of arms without numbers."""
        numbers = self.numbers()
        if key is None:
            arms = {words(*change): arm for change, arm in self.arms.items() if change[0] not in numbers}
            return {self.base_name: self.base} | arms if arms else {}
        found = {change: arm for change, arm in self.arms.items() if change[0] == key}
        base = (key, numbers[key])
        ordered = sorted([*found, base], key=by_size)
        return {
            words(*change) + ("" if change in found else ", base"): found.get(change, self.base) for change in ordered
        }

    @property
    def base_name(self) -> str:
        return f"{self.base.group.name}, base"


def ablations(family: Sequence[Results]) -> list[Ablation]:
    found = []
    for base in family:
        arms = {}
        for results in family:
            further = set(results.group.changes) - set(base.group.changes)
            if results.group.method == base.group.method and len(further) == 1:
                if len(results.group.changes) == len(base.group.changes) + 1:
                    arms[further.pop()] = results
        if arms:
            found.append(Ablation(base, dict(sorted(arms.items(), key=lambda each: by_size(each[0])))))
    return found
