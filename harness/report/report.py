"""A report: tables, figures, and one page that holds them, from score files and published scores alone."""

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from harness.files import project_version
from harness.report import figures, statistics, tables
from harness.report.comparisons import ablations, common_tasks, differences, families, methods
from harness.report.figures import Figure, Style
from harness.report.methods import Scores, improvement_table, is_own, methods_tables, own_scores
from harness.report.page import Section, Video, build_page
from harness.report.published import SuiteScores, label_of, main_methods
from harness.report.scores import Group, Results, Run, Said, collect, every_suite, labels, said_once
from harness.report.statistics import METRICS, Interval
from harness.report.tables import MEANS_ONLY, Table
from harness.report.words import quantity, words
from harness.run_folder import RunFolder

Suites = Mapping[str, SuiteScores]
THRESHOLDS = 81

AGGREGATES = (
    "IQM and optimality gap over runs × {task}s, median and mean of {task} means. A small optimality gap is good. "
    "Bars: 95 % stratified bootstrap intervals. Over {which}. {counts}"
)
PROFILE = (
    "Share of runs × {task}s that score above τ; every {task} weighs the same. Bands: 95 % stratified "
    "bootstrap intervals. "
    "Over {which}. {counts}"
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
OUR_RUNS, ABLATIONS, DIFFERENCES = OF_RUNS = "Our runs", "Ablations", "Differences on equal seeds"  # titles of sections
MOST_TASKS = 5  # with a panel each
DIFFERENCE = (
    "Each setting less {reference}, paired by seed: mean over seeds, then over {task}s. Lines: 95 % stratified "
    "bootstrap intervals over pairs. {counts}"
)
CURVES = (
    "Scores of the evaluations during training: mean over episodes, then over runs. Thin lines are single runs; a band "
    "is one standard deviation over runs (their number less one), and mean and band stop where a run is missing. "
    "Horizontal lines are players to compare with and, beside runs of the paper's size, published means. "
    "Grey curves with bands are published ones: mean and standard deviation over seeds."
)
TRACE = (
    "A score of ours is a mean over rows of the file in its line; what tables and figures make of these scores "
    "is in the CSV files that they name. A published score is a cell of the file in its line."
)


def write_report(
    runs: Sequence[Run],
    suites: Suites,
    out: Path,
    media: bool = False,
    repeats: int = statistics.REPEATS,
    listed: Sequence[Scores] = (),
    others: Sequence[Scores] = (),
) -> tuple[list[Path], list[Table]]:
    """Writes tables, figures and index.html below `out`; returns their paths, and the tables with rows of one's own.

    suites: by name; a run of another suite has no published scores. Without runs it is the published tables alone.
    listed: a user's scores, shown beside them; others: single runs that only these are compared with. With `media` the
    page holds videos. Raises ValueError where statistics.aggregate does.
    """
    suites = every_suite(runs, suites)
    ours = own_scores(runs, suites)
    compared = methods_tables(ours, listed, suites, repeats)
    improvement = improvement_table([*ours, *others], listed, repeats)
    sections = list(_sections(runs, suites, out / "figures", media, repeats, compared, improvement))
    sections = [section for section in sections if not section.is_empty]
    paths = [path for section in sections for table in section.tables for path in _write_table(table, out / "tables")]
    paths += [path for section in sections for figure in section.figures for path in figure.paths]
    page, lead, facts = out / "index.html", _lead(runs, suites), _facts(runs, suites, repeats)
    page.write_text(build_page("Results", lead, facts, _warnings(runs, suites), sections))
    own = [table for section in sections if section.title in OF_RUNS for table in section.tables]
    own += [table for table in chain(*compared.values()) if any(is_own(row) for row in table.rows)]
    return [*paths, page], [*own, *improvement]


def _sections(
    runs: Sequence[Run],
    suites: Suites,
    folder: Path,
    media: bool,
    repeats: int,
    compared: Mapping[str, list[Table]],
    improvement: list[Table],
) -> Iterator[Section]:
    style = figures.styles([group.label for group in _groups(runs)])
    compared_runs = list(families(runs, suites))
    if runs:
        yield Section(OUR_RUNS, tables=[tables.aggregates_table(runs, suites, repeats)])
    drawn = [figure for family in compared_runs for figure in _ablation_figures(family, folder, repeats)]
    yield Section(ABLATIONS, [], tables.ablation_tables(runs, suites, repeats), drawn)
    ours = {run.suite for run in runs}
    for suite in sorted(suites.values(), key=lambda suite: suite.name not in ours):
        own = [family for family in compared_runs if family[0].suite is suite]
        drawn = [figure for family in own for figure in _family_figures(family, folder, style, repeats)]
        text = [text for family in own for text in _gaps(family)]
        methods = [
            replace(table, is_folded=bool(runs) and not any(map(is_own, table.rows)))
            for table in compared.get(suite.name, ())
        ]
        shown = [tables.suite_table(suite, runs, repeats), *methods]
        yield Section(suite.label, text, shown, drawn, is_folded=bool(runs) and suite.name not in ours)
    yield Section("Probability of improvement", tables=improvement)
    drawn = [figure for family in compared_runs for figure in _differences(family, folder, style, repeats)]
    yield Section(DIFFERENCES, [], tables.difference_tables(runs, suites, repeats), drawn)
    longest = {(family[0].group.size, *(results.group for results in family)): family for family in compared_runs}
    drawn = [figure for family in longest.values() for figure in _mean_curves(family, folder, style, repeats)]
    yield Section("Learning curves", [CURVES], figures=[*drawn, *_curves(runs, suites, folder, style)])
    if media:
        yield Section("Videos", videos=list(_videos(runs)))
    origins = [tables.provenance_table(runs, suites)] if runs else []
    yield Section("Provenance", [TRACE], [*origins, tables.sources_table(suites)])


def _write_table(table: Table, folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    texts = {".csv": table.csv(), ".md": table.markdown(), ".tex": table.latex()}
    for suffix, text in texts.items():
        (folder / f"{table.name}{suffix}").write_text(text)
    return [folder / f"{table.name}{suffix}" for suffix in texts]


def _groups(runs: Sequence[Run]) -> list[Group]:
    return sorted({run.group for run in runs}, key=lambda group: group.rank)


def _family_figures(
    family: Sequence[Results], folder: Path, style: Mapping[str, Style], repeats: int
) -> Iterator[Figure]:
    suite, style = family[0].suite, _by_name(family, style)
    for kind, members in methods(family):
        stem, title = _stem(family, kind), _title(family, kind)
        common = common_tasks(members)
        if not common:
            continue
        scores = {results.group.name: _scores(results, common) for results in members}
        texts = {"task": suite.task_word, "which": _which(suite, common), "counts": _counts(suite, scores)}
        intervals = {
            name: {METRICS[metric]: value for metric, value in statistics.aggregate(runs, repeats).items()}
            for name, runs in scores.items()
        }
        name = f"{stem}_aggregates"
        paths = figures.draw_intervals(folder, name, intervals, style, suite.normalised_unit)
        yield Figure(name, f"{title}: aggregates", AGGREGATES.format(**texts), paths)
        if _fewest(members, common) < 2:
            continue

        values = [score for runs in scores.values() for score in chain(*runs.values())]
        low, high = min(0.0, math.floor(10 * min(values)) / 10), max(1.0, math.ceil(10 * max(values)) / 10)
        thresholds = np.linspace(low, high, THRESHOLDS)
        profiles = {name: statistics.performance_profile(runs, thresholds, repeats) for name, runs in scores.items()}
        name = f"{stem}_profiles"
        paths = figures.draw_profiles(folder, name, thresholds, profiles, style, suite.normalised_unit)
        yield Figure(name, f"{title}: performance profiles", PROFILE.format(**texts), paths)

        first, *others = scores
        pairs = {
            (first, other): statistics.probability_of_improvement(scores[first], scores[other], repeats)
            for other in others
        }
        if pairs:
            name = f"{stem}_improvement"
            paths = figures.draw_probabilities(folder, name, pairs)
            yield Figure(name, f"{title}: probability of improvement", PROBABILITY.format(**texts), paths)


def _ablation_figures(family: Sequence[Results], folder: Path, repeats: int) -> Iterator[Figure]:
    """A figure for each key whose values are numbers, a line for each base; and one for the other arms of a base."""
    suite, axes = family[0].suite, {}
    for ablation in ablations(family):
        base, others = ablation.base.group, ablation.others()
        for axis in ablation.axes():
            axes.setdefault(axis.key, {})[base.name] = axis
        panels = _panels(suite, others.values())
        intervals = {
            label: {title: _mean(each, tasks, repeats) for title, tasks in panels.items()}
            for label, each in others.items()
        }
        if panels:
            name, style = f"{ablation.base.own_stem}_ablations", figures.styles(list(others))
            paths = figures.draw_intervals(folder, name, intervals, style, suite.normalised_unit)
            yield Figure(name, f"{_title(family)}: ablations of {base.name}", _ablation_caption(suite, others), paths)
    for key, lines in axes.items():
        members = {
            words(key, value) + f" of {base}" * (len(lines) > 1): each
            for base, axis in lines.items()
            for value, each in axis.results.items()
        }
        panels = {
            title: {
                base: {value: _mean(each, tasks, repeats) for value, each in axis.results.items()}
                for base, axis in lines.items()
            }
            for title, tasks in _panels(suite, members.values()).items()
        }
        if panels:
            name, own = _stem(family, f"ablation_{key}"), {base: axis.own for base, axis in lines.items()}
            style, labels = figures.styles(list(lines)), (quantity(key), suite.normalised_unit)
            paths = figures.draw_ablation(folder, name, panels, own, style, labels)
            caption = f"Hollow: the base, {', '.join(dict.fromkeys(words(key, value) for value in own.values()))}. "
            yield Figure(name, f"{_title(family)}: {quantity(key)}", caption + _ablation_caption(suite, members), paths)


def _ablation_caption(suite: SuiteScores, members: Mapping[str, Results]) -> str:
    common = common_tasks(list(members.values()))
    scores = {label: _scores(results, common) for label, results in members.items()}
    return ABLATION.format(task=suite.task_word, which=_which(suite, common), counts=_counts(suite, scores))


def _panels(suite: SuiteScores, members: Collection[Results]) -> dict[str, list[str]]:
    """Tasks of each panel by its title: all that the members share, and each of a few."""
    common = common_tasks(list(members)) if members else []
    whole = {f"mean of {len(common)} {suite.task_word}s": common} if len(common) > 1 else {}
    return whole | ({task: [task] for task in common} if len(common) <= MOST_TASKS else {})


def _scores(results: Results, tasks: Sequence[str]) -> dict[str, list[float]]:
    normalised = results.normalised()
    return {task: normalised[task] for task in tasks}


def _mean(results: Results, tasks: Sequence[str], repeats: int) -> Interval:
    return statistics.aggregate(_scores(results, tasks), repeats)["mean"]


def _differences(family: Sequence[Results], folder: Path, style: Mapping[str, Style], repeats: int) -> Iterator[Figure]:
    """Bars of results less a reference, over all pairs that the two have: a figure a reference."""
    suite, style = family[0].suite, _by_name(family, style)
    for reference, others in differences(family):
        intervals, counts = {}, {}
        for other in others:
            pairs = statistics.pairs(other.paired(), reference.paired())
            if not pairs:
                continue
            name = other.group.name
            intervals[name], _ = statistics.paired_differences(other.paired(), reference.paired(), repeats)
            alone = ", so no interval" if math.isnan(intervals[name][1]) else ""
            number, tasks = _count(sum(map(len, pairs.values())), "pair"), _count(len(pairs), suite.task_word)
            counts.setdefault(f"{number}, {tasks}{alone}", []).append(name)
        if not intervals:
            continue
        reference_name, file = reference.group.name, f"{reference.own_stem}_differences"
        unit = f"difference of {suite.normalised_unit}"
        texts = [f"{', '.join(names) if len(counts) > 1 else 'Each'}: {count}." for count, names in counts.items()]
        caption = DIFFERENCE.format(reference=reference.group.label, task=suite.task_word, counts=" ".join(texts))
        paths = figures.draw_differences(folder, file, intervals, style, unit)
        yield Figure(file, f"{_title(family)}: differences from {reference_name}", caption, paths)


def _by_name(family: Sequence[Results], style: Mapping[str, Style]) -> dict[str, Style]:
    return {results.group.name: style[results.group.label] for results in family}


def _mean_curves(family: Sequence[Results], folder: Path, style: Mapping[str, Style], repeats: int) -> Iterator[Figure]:
    """Curves over the tasks that all share, of those with several evaluations."""
    suite, common, curves, scores = family[0].suite, common_tasks(family), {}, {}
    for results in family if common else ():
        runs = {task: list(results.runs[task].values()) for task in common}
        steps = sorted(set.intersection(*(set(run.evaluations) for of_task in runs.values() for run in of_task)))
        steps = [step for step in steps if step <= results.env_steps]
        if len(steps) > 1:
            values = {
                task: [[suite.normalised(task, run.mean_at(step)) for step in steps] for run in of_task]
                for task, of_task in runs.items()
            }
            curves[results.group.name] = (steps, *statistics.mean_curve(values, repeats))
            scores[results.group.name] = values
    if curves:
        name = _stem(family, "curves")
        caption = MEAN_CURVES.format(task=suite.task_word, which=_which(suite, common), counts=_counts(suite, scores))
        labels = (
            _steps_label([run for results in family for runs in results.runs.values() for run in runs.values()]),
            suite.normalised_unit,
        )
        paths = figures.draw_mean_curves(folder, name, curves, _by_name(family, style), labels)
        yield Figure(name, f"{_title(family)}: learning curves", caption, paths)


def _curves(runs: Sequence[Run], suites: Suites, folder: Path, style: Mapping[str, Style]) -> Iterator[Figure]:
    for suite in suites.values():
        evaluated = [run for run in runs if run.suite == suite.name and run.evaluations]
        order = [*suite.tasks, *(run.task for run in evaluated)]
        for task in dict.fromkeys(task for task in order if any(run.task == task for run in evaluated)):
            of_task = [run for run in evaluated if run.task == task]
            groups = {group: [run for run in of_task if run.group == group] for group in _groups(of_task)}
            names = {group: group.name if len({each.size for each in groups}) == 1 else group.label for group in groups}
            caption = " ".join(
                said_once((group, f"{_seeds(own)}; {_episodes(own)} an evaluation") for group, own in groups.items())
            )
            labels = (_steps_label(of_task), suite.score_unit)
            file = f"{suite.name}_{_slug(task)}_curve"
            lines = _lines(suite, task, any(run.preset == "full" for run in of_task))
            paths = figures.draw_learning_curve(
                folder,
                file,
                {names[group]: own for group, own in groups.items()},
                {names[group]: style[group.label] for group in groups},
                labels,
                lines,
                behind=suite.curves(task),
            )
            yield Figure(file, f"{suite.label}: {task}", caption, paths)


def _lines(suite: SuiteScores, task: str, full_size: bool) -> dict[str, float]:
    """Scores to compare with, by what they are; published means of the main methods only beside runs of their size."""
    published = {
        f"{label_of(method)}, published, {budget} steps": score
        for method in main_methods()
        for budget, score in suite.means_of(method, task).items()
    }
    return suite.references(task) | (published if full_size else {})


def _steps_label(runs: Sequence[Run]) -> str:
    frames = {run.frames[steps] / steps for run in runs for steps in run.frames if steps}
    unit = f" (one is {max(frames):g} frames)" if len(frames) == 1 and max(frames) > 1 else ""
    return f"environment steps{unit}"


def _videos(runs: Sequence[Run]) -> Iterator[Video]:
    """The newest video in the folder of the first run of each task and group that has one."""
    seen = set()
    for run in sorted(runs, key=lambda run: (run.suite, run.task, run.group.rank, run.seed)):
        folder = RunFolder(run.path.parent)
        recorded = sorted(folder.media.glob("episode_*.mp4")) if run.path == folder.evaluations else []
        if not recorded or (run.group, run.task) in seen:
            continue
        seen.add((run.group, run.task))
        agent_steps = int(recorded[-1].stem.removeprefix("episode_"))
        score = ""
        for env_steps, episodes in run.evaluations.items():
            if run.agent_steps[env_steps] == agent_steps:
                score = f": it scores {episodes[0]:g}, the mean of {len(episodes)} is {run.mean_at(env_steps):.1f}"
        caption = f"Seed {run.seed}, first episode of the evaluation after {agent_steps:,} agent steps{score}."
        yield Video(f"{run.task}: {run.group.label}", caption, recorded[-1])


def _lead(runs: Sequence[Run], suites: Suites) -> str:
    *others, last = (suite.label for suite in suites.values() if suite.methods)
    names = " and ".join([", ".join(others), last] if others else [last])
    return f"Published scores of {names}" + (f", with {_count(len(runs), 'run')} of ours beside." if runs else ".")


def _facts(runs: Sequence[Run], suites: Suites, repeats: int) -> dict[str, str]:
    said: dict[str, list[Group]] = {}
    for group in _groups(runs):
        members, suite = [run for run in runs if run.group == group], suites[group.suite]
        covered = _covered(suite, {run.task for run in members})
        said.setdefault(f"{suite.label}: {_count(len(members), 'run')}, {covered}, {_seeds(members)}", []).append(group)
    facts = {}
    for fact, groups in said.items():
        suite, _, text = fact.partition(": ")
        facts[f"{suite}: {labels(groups)}"] = text + (" each" if len(groups) > 1 else "")
    if runs:
        facts["Intervals"] = f"95 %, {repeats:,} stratified bootstrap resamples (rliable)"
    return {**facts, "Made by": f"mlr-rl {project_version()}, mlr report"}


def _covered(suite: SuiteScores, tasks: set[str]) -> str:
    further = _count(len(tasks - set(suite.tasks)), f"further {suite.task_word}" if suite.tasks else suite.task_word)
    if not suite.tasks:
        return further
    covered = f"{len(tasks & set(suite.tasks))} of {len(suite.tasks)} {suite.task_word}s"
    return f"{covered}, {further}" if tasks - set(suite.tasks) else covered


def _warnings(runs: Sequence[Run], suites: Suites) -> list[str]:
    """Caveats that stand before the first number."""
    warnings = [MEANS_ONLY] if runs else [MEANS_ONLY, "No runs were given: all scores here are published ones."]
    said: dict[str, list[Said]] = {}
    for results in collect(runs, suites):
        name = results.suite.label
        said.setdefault(name, [])
        if results.group.preset != "full" and results.suite.methods:
            said[name].append((results.group, "smaller than the paper's, so no reproduction of it"))
        said[name] += results.missing()
    warnings += [f"{name}, {sentence}" for name, entries in said.items() for sentence in said_once(entries)]
    dirty = sum(run.version.endswith(".dirty") for run in runs)
    if dirty:
        warnings.append(f"{dirty} of {_count(len(runs), 'run')} ran with changes that are not in the named commit.")
    return warnings


def _gaps(family: Sequence[Results]) -> Iterator[str]:
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


def _title(family: Sequence[Results], kind: str = "") -> str:
    parts = (family[0].suite.label, kind, *family[0].group.apart, f"{family[0].env_steps:,} steps")
    return ", ".join(filter(None, parts))


def _stem(family: Sequence[Results], kind: str = "") -> str:
    return _slug("_".join(filter(None, (family[0].stem, kind))))


def _slug(text: str) -> str:
    return re.sub(r"\W+", "_", text)


def _seeds(runs: Sequence[Run]) -> str:
    seeds = sorted({run.seed for run in runs})
    if len(seeds) > 3 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"seeds {seeds[0]} to {seeds[-1]}"
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _episodes(runs: Sequence[Run]) -> str:
    counts = sorted({len(scores) for run in runs for scores in run.evaluations.values()})
    return f"{' or '.join(map(str, counts))} episode{'' if counts == [1] else 's'}"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
