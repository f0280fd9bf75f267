"""Figures of results, with titles and captions."""

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from harness.report import figures, statistics
from harness.report.comparisons import Family, ablations, common_tasks, differences, methods
from harness.report.figures import Figure, Style
from harness.report.published import SuiteScores, label_of, main_methods
from harness.report.results import Group, Results, Run, groups_of, said_once
from harness.report.statistics import METRICS, Interval
from harness.report.words import plural, quantity, words

THRESHOLDS = 81
MOST_TASKS = 5  # with a panel each

AGGREGATES = (
    "IQM and optimality gap over runs × {task}s, median and mean of {task} means. A small optimality gap is good. "
    "Bars: 95 % stratified bootstrap intervals. Over {which}. {counts}"
)
PROFILE = (
    "Share of runs × {task}s that score above τ; every {task} weighs the same. Bands: 95 % stratified bootstrap "
    "intervals. Over {which}. {counts}"
)
PROBABILITY = (
    "How likely a run of the first scores above a run of the second on the same {task}; 0.5 is no difference. "
    "Bars: 95 % stratified bootstrap intervals. Over {which}. {counts}"
)
ABLATION = "Mean over runs, then over {task}s. Bars: 95 % stratified bootstrap intervals. Over {which}. {counts}"
MEAN_CURVES = (
    "Mean over runs, then over {task}s, at steps where all these runs were evaluated. Bands: 95 % stratified bootstrap "
    "intervals. Over {which}. {counts}"
)
DIFFERENCE = (
    "Each setting less {reference}, paired by seed: mean over seeds, then over {task}s. Lines: 95 % stratified "
    "bootstrap intervals over pairs. {counts}"
)


@dataclass(frozen=True)
class Drawing:
    """Folder of the figures, and what all of them share."""

    folder: Path
    styles: Mapping[str, Style]  # by label of a group
    repeats: int  # resamples of an interval

    def of_names(self, groups: Collection[Group]) -> dict[str, Style]:
        return {group.name: self.styles[group.label] for group in groups}

    def figure(self, draw: Callable, name: str, title: str, caption: str, *data, **settings) -> Figure:
        return Figure(name, title, caption, draw(self.folder, name, *data, **settings))


def method_figures(family: Family, drawing: Drawing) -> Iterator[Figure]:
    """Aggregates, profiles and probabilities of improvement of the methods, over the tasks that they share."""
    suite, style = family[0].suite, drawing.of_names([results.group for results in family])
    unit, repeats = suite.normalised_unit, drawing.repeats
    for kind, members in methods(family):
        stem, title, common = _stem(family, kind), _title(family, kind), common_tasks(members)
        if not common:
            continue
        scores = {results.group.name: results.normalised(common) for results in members}
        caption = partial(_caption, suite, common, scores)
        intervals = {
            name: {METRICS[metric]: value for metric, value in statistics.aggregate(runs, repeats).items()}
            for name, runs in scores.items()
        }
        about = f"{stem}_aggregates", f"{title}: aggregates", caption(AGGREGATES)
        yield drawing.figure(figures.draw_intervals, *about, intervals, style, unit, suite.limits)
        if _fewest(members, common) < 2:
            continue

        values = [score for runs in scores.values() for score in chain(*runs.values())]
        low, high = min(0.0, math.floor(10 * min(values)) / 10), max(1.0, math.ceil(10 * max(values)) / 10)
        thresholds = np.linspace(low, high, THRESHOLDS)
        profiles = {name: statistics.performance_profile(runs, thresholds, repeats) for name, runs in scores.items()}
        about = f"{stem}_profiles", f"{title}: performance profiles", caption(PROFILE)
        yield drawing.figure(figures.draw_profiles, *about, thresholds, profiles, style, unit)

        first, *others = scores
        improvement = partial(statistics.probability_of_improvement, scores[first], repeats=repeats)
        pairs = {(first, other): improvement(scores[other]) for other in others}
        if pairs:
            about = f"{stem}_improvement", f"{title}: probability of improvement", caption(PROBABILITY)
            yield drawing.figure(figures.draw_probabilities, *about, pairs)


def ablation_figures(family: Family, drawing: Drawing) -> Iterator[Figure]:
    """A figure for each key whose values are numbers, a line for each base; and one for the other arms of a base."""
    suite, axes = family[0].suite, {}
    unit = suite.normalised_unit
    for ablation in ablations(family):
        base, others = ablation.base.group, ablation.others()
        for axis in ablation.axes():
            axes.setdefault(axis.key, {})[base.name] = axis
        panels = _panels(suite, others.values())
        intervals = {
            label: {title: _mean(each, tasks, drawing.repeats) for title, tasks in panels.items()}
            for label, each in others.items()
        }
        if panels:
            about = f"{ablation.base.own_stem}_ablations", f"{_title(family)}: ablations of {base.name}"
            about, style = (*about, _ablation_caption(suite, others)), figures.styles(list(others))
            yield drawing.figure(figures.draw_intervals, *about, intervals, style, unit, suite.limits)
    for key, lines in axes.items():
        members = {
            words(key, value) + f" of {base}" * (len(lines) > 1): each
            for base, axis in lines.items()
            for value, each in axis.results.items()
        }
        panels = {
            title: {
                base: {value: _mean(each, tasks, drawing.repeats) for value, each in axis.results.items()}
                for base, axis in lines.items()
            }
            for title, tasks in _panels(suite, members.values()).items()
        }
        if panels:
            own = {base: axis.own for base, axis in lines.items()}
            caption = f"Hollow: the base, {', '.join(dict.fromkeys(words(key, value) for value in own.values()))}. "
            about = _stem(family, f"ablation_{key}"), f"{_title(family)}: {quantity(key)}"
            about = *about, caption + _ablation_caption(suite, members)
            style, labels = figures.styles(list(lines)), (quantity(key), unit)
            yield drawing.figure(figures.draw_ablation, *about, panels, own, style, labels, suite.limits)


def difference_figures(family: Family, drawing: Drawing) -> Iterator[Figure]:
    """Bars of results less a reference, over all pairs that the two have: a figure a reference."""
    suite, style = family[0].suite, drawing.of_names([results.group for results in family])
    for reference, others in differences(family):
        intervals, counts = {}, {}
        for other in others:
            pairs = statistics.pairs(other.paired(), reference.paired())
            if not pairs:
                continue
            name = other.group.name
            intervals[name], _ = statistics.paired_differences(other.paired(), reference.paired(), drawing.repeats)
            alone = ", so no interval" if math.isnan(intervals[name][1]) else ""
            number, tasks = plural(sum(map(len, pairs.values())), "pair"), plural(len(pairs), suite.task_word)
            counts.setdefault(f"{number}, {tasks}{alone}", []).append(name)
        if intervals:
            texts = [f"{', '.join(names) if len(counts) > 1 else 'Each'}: {count}." for count, names in counts.items()]
            caption = DIFFERENCE.format(reference=reference.group.label, task=suite.task_word, counts=" ".join(texts))
            about = f"{reference.own_stem}_differences", f"{_title(family)}: differences from {reference.group.name}"
            unit = f"difference of {suite.normalised_unit}"
            yield drawing.figure(figures.draw_differences, *about, caption, intervals, style, unit)


def mean_curves(family: Family, drawing: Drawing) -> Iterator[Figure]:
    """Curves over the tasks that all share, of those with several evaluations."""
    suite, common, curves, scores = family[0].suite, common_tasks(family), {}, {}
    for results in family if common else ():
        runs = {task: list(results.runs[task].values()) for task in common}
        steps = sorted(set.intersection(*(set(run.evaluations) for of_task in runs.values() for run in of_task)))
        steps = [step for step in steps if step <= results.env_steps]
        if len(steps) > 1:
            values = {
                task: [[suite.normalised(task, run.evaluations[step].mean) for step in steps] for run in of_task]
                for task, of_task in runs.items()
            }
            curves[results.group.name] = (steps, *statistics.mean_curve(values, drawing.repeats))
            scores[results.group.name] = values
    if curves:
        about = _stem(family, "curves"), f"{_title(family)}: learning curves"
        about = *about, _caption(suite, common, scores, MEAN_CURVES)
        labels = _steps_label([run for results in family for run in results.members]), suite.normalised_unit
        style = drawing.of_names([results.group for results in family])
        yield drawing.figure(figures.draw_mean_curves, *about, curves, style, labels, suite.limits)


def task_curves(runs: Sequence[Run], suite: SuiteScores, drawing: Drawing) -> Iterator[Figure]:
    """A figure for each task of a suite that has been evaluated."""
    evaluated = [run for run in runs if run.suite == suite.name and run.evaluations]
    order = [*suite.tasks, *(run.task for run in evaluated)]
    for task in dict.fromkeys(task for task in order if any(run.task == task for run in evaluated)):
        of_task = [run for run in evaluated if run.task == task]
        groups = {group: [run for run in of_task if run.group == group] for group in groups_of(of_task)}
        names = {group: group.name if len({each.size for each in groups}) == 1 else group.label for group in groups}
        caption = " ".join(
            said_once((group, f"{seeds_of(own)}; {_episodes(own)} an evaluation") for group, own in groups.items())
        )
        yield drawing.figure(
            figures.draw_learning_curve,
            f"{suite.name}_{_slug(task)}_curve",
            f"{suite.label}: {task}",
            caption,
            {names[group]: own for group, own in groups.items()},
            {names[group]: drawing.styles[group.label] for group in groups},
            (_steps_label(of_task), suite.score_unit),
            _lines(suite, task, any(run.preset == "full" for run in of_task)),
            behind=suite.curves(task),
            limits=suite.limits,
        )


def gaps(family: Family) -> Iterator[str]:
    """Reasons for which comparisons lack figures."""
    task = family[0].suite.task_word
    for kind, members in methods(family):
        names, common = "; ".join(results.group.label for results in members), common_tasks(members)
        if not common:
            yield f"{_title(family, kind)}: {names} have no {task} in common, so no figure compares them."
        elif _fewest(members, common) < 2:
            yield (
                f"{_title(family, kind)}: a single run of a single {task} shows neither a profile nor a probability "
                "of improvement, so these figures are left out."
            )


def _fewest(members: Sequence[Results], tasks: Sequence[str]) -> int:
    """Runs of `tasks` that the member with the fewest has."""
    return min(sum(len(results.runs[task]) for task in tasks) for results in members)


def _which(suite: SuiteScores, tasks: Sequence[str]) -> str:
    whole = len(suite.tasks)
    if len(tasks) == whole:
        return f"all {whole} {suite.task_word}s"
    names = f" ({', '.join(tasks)})" if len(tasks) <= 6 else ""
    return f"{len(tasks)} of {whole} {suite.task_word}s{names}"


def _counts(suite: SuiteScores, scores: Mapping[str, Mapping[str, Sequence]]) -> str:
    """Runs of a task, once for all labels where they are equal."""
    counts: dict[str, list[str]] = {}
    for label, runs in scores.items():
        least, most = (pick(map(len, runs.values())) for pick in (min, max))
        text = f"{least}" + (f" to {most}" if most > least else ", so no interval" if most == 1 else "")
        counts.setdefault(text, []).append(label)
    texts = [f"{text} ({', '.join(names)})" if len(counts) > 1 else text for text, names in counts.items()]
    return f"Runs per {suite.task_word}: {'; '.join(texts)}."


def _title(family: Family, kind: str = "") -> str:
    parts = (family[0].suite.label, kind, *family[0].group.apart, f"{family[0].env_steps:,} steps")
    return ", ".join(filter(None, parts))


def _stem(family: Family, kind: str = "") -> str:
    return _slug("_".join(filter(None, (family[0].stem, kind))))


def _slug(text: str) -> str:
    return re.sub(r"\W+", "_", text)


def _caption(
    suite: SuiteScores, tasks: Sequence[str], scores: Mapping[str, Mapping[str, Sequence]], template: str
) -> str:
    """scores: by label and task."""
    return template.format(task=suite.task_word, which=_which(suite, tasks), counts=_counts(suite, scores))


def _ablation_caption(suite: SuiteScores, members: Mapping[str, Results]) -> str:
    common = common_tasks(list(members.values()))
    scores = {label: results.normalised(common) for label, results in members.items()}
    return _caption(suite, common, scores, ABLATION)


def _panels(suite: SuiteScores, members: Collection[Results]) -> dict[str, list[str]]:
    """Tasks of each panel by its title: all that the members share, and each of a few."""
    common = common_tasks(list(members)) if members else []
    whole = {f"mean of {len(common)} {suite.task_word}s": common} if len(common) > 1 else {}
    return whole | ({task: [task] for task in common} if len(common) <= MOST_TASKS else {})


def _mean(results: Results, tasks: Sequence[str], repeats: int) -> Interval:
    return statistics.aggregate(results.normalised(tasks), repeats)["mean"]


def _lines(suite: SuiteScores, task: str, full_size: bool) -> dict[str, float]:
    """Scores to compare with, by what they are; published means of the main methods only beside runs of their size."""
    published = {
        f"{label_of(method)}, published, {budget} steps": score
        for method in main_methods()
        for budget, score in suite.means_of(method, task).items()
    }
    return suite.references(task) | (published if full_size else {})


def _steps_label(runs: Sequence[Run]) -> str:
    frames = {each.frames / steps for run in runs for steps, each in run.evaluations.items() if steps}
    unit = f" (one is {max(frames):g} frames)" if len(frames) == 1 and max(frames) > 1 else ""
    return f"environment steps{unit}"


def seeds_of(runs: Sequence[Run]) -> str:
    seeds = sorted({run.seed for run in runs})
    if len(seeds) > 3 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"seeds {seeds[0]} to {seeds[-1]}"
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _episodes(runs: Sequence[Run]) -> str:
    counts = sorted({len(each.scores) for run in runs for each in run.evaluations.values()})
    return f"{' or '.join(map(str, counts))} episode{'' if counts == [1] else 's'}"
