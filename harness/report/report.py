"""A report: tables, figures, and one page that holds them, from score files and published scores alone."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from harness.report import figures, statistics, tables
from harness.report.figures import Figure, Style
from harness.report.page import Section, Video, build_page
from harness.report.scores import Group, Results, Run, benchmark_tasks, collect, project_version, published
from harness.report.statistics import METRICS
from harness.report.tables import BUDGETS, MEANS_ONLY, REFERENCE, Table
from harness.run_folder import RunFolder

BENCHMARKS = {"atari": "Atari", "dmcontrol": "DMControl"}
TASK = {"atari": "game", "dmcontrol": "task"}
NORMALISED = {"atari": "human-normalised score", "dmcontrol": "return / 1000"}
RAW = {"atari": "raw game score", "dmcontrol": "return"}
MAIN = (REFERENCE, "none")  # the paper's pair; other methods are compared in figures of their own
THRESHOLDS = 81

AGGREGATES = (
    "IQM and optimality gap over runs × {task}s, median and mean of {task} means. A small optimality gap is good. "
    " Bars: 95 % stratified bootstrap intervals. Over {which}. {counts}"
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
DIFFERENCE = (
    "Each setting less {reference}, paired by seed: mean over seeds, then over {task}s. Lines: 95 % stratified "
    "bootstrap intervals over pairs. {counts}"
)
CURVES = (
    "Scores of the evaluations during training: mean over episodes, then over runs. Thin lines are single runs; a band "
    "is one standard deviation over runs (their number less one), and mean and band stop where a run is missing. "
    "Horizontal lines are a random policy and, beside runs of the paper's size, published means."
)
TRACE = (
    "A score of ours is a mean over rows of the file in its line; what tables and figures make of these scores "
    "is in the CSV files that they name. A published score is a cell of the file in its line."
)


def write_report(runs: Sequence[Run], out: Path, media: bool = False, repeats: int = statistics.REPEATS) -> list[Path]:
    """Writes tables, figures and index.html below `out` and returns their paths. With `media` the page holds videos.

    Without runs it is the published tables alone. Raises ValueError where statistics.aggregate does.
    """
    sections = [section for section in _sections(runs, out / "figures", media, repeats) if not section.is_empty]
    paths = [path for section in sections for table in section.tables for path in _write_table(table, out / "tables")]
    paths += [path for section in sections for figure in section.figures for path in figure.paths]
    page = out / "index.html"
    page.write_text(build_page("MLR: results", _lead(runs), _facts(runs, repeats), _warnings(runs), sections))
    return [*paths, page]


def _sections(runs: Sequence[Run], folder: Path, media: bool, repeats: int) -> Iterator[Section]:
    style = figures.styles(list(dict.fromkeys(group.label for group in _groups(runs))))
    families = list(_families(runs))
    if runs:
        yield Section("Our runs", tables=[tables.aggregates_table(runs, repeats)])
    for benchmark, name in BENCHMARKS.items():
        make = tables.atari_table if benchmark == "atari" else tables.dmcontrol_table
        own = [family for family in families if family[0].group.benchmark == benchmark]
        drawn = [figure for family in own for figure in _family_figures(family, folder, style, repeats)]
        yield Section(name, [text for family in own for text in _gaps(family)], [make(runs, repeats)], drawn)
    differences = [figure for family in families for figure in _differences(family, folder, style, repeats)]
    yield Section("Differences on equal seeds", [], tables.ablation_tables(runs, repeats), differences)
    yield Section("Learning curves", [CURVES], figures=list(_curves(runs, folder, style)))
    if media:
        yield Section("Videos", videos=list(_videos(runs)))
    origins = [tables.provenance_table(runs)] if runs else []
    yield Section("Provenance", [TRACE], [*origins, tables.sources_table()])


def _write_table(table: Table, folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    texts = {".csv": table.csv(), ".md": table.markdown(), ".tex": table.latex()}
    for suffix, text in texts.items():
        (folder / f"{table.name}{suffix}").write_text(text)
    return [folder / f"{table.name}{suffix}" for suffix in texts]


def _groups(runs: Sequence[Run]) -> list[Group]:
    """The paper's pair first, the paper's size before others."""

    def rank(group: Group) -> tuple:
        order = MAIN.index(group.method) if group.method in MAIN else len(MAIN)
        return group.benchmark, order, group.method, group.preset != "full", group.preset, group.fidelity

    return sorted({run.group for run in runs}, key=rank)


def _families(runs: Sequence[Run]) -> Iterator[list[Results]]:
    """Results that may be compared: same benchmark, preset, fidelity and number of environment steps."""
    order = _groups(runs)
    for size in dict.fromkeys(replace(group, method="") for group in order):
        members = [run for run in runs if replace(run.group, method="") == size]
        ends = {results.env_steps for results in collect(members) if results.runs}
        if size.benchmark == "dmcontrol":
            ends |= {steps for steps in BUDGETS.values() if any(steps in run.evaluations for run in members)}
        for env_steps in sorted(ends):
            found = [results for results in collect(members, env_steps) if results.runs]
            yield sorted(found, key=lambda results: order.index(results.group))


def _comparisons(family: Sequence[Results]) -> Iterator[tuple[str, list[Results]]]:
    """The paper's pair, and the other methods with the reference; each with a name."""
    pair = [results for results in family if results.group.method in MAIN]
    others = [results for results in family if results.group.method not in MAIN]
    if pair:
        yield "", pair
    if others:
        yield "ablations", [*(results for results in pair if results.group.method == REFERENCE), *others]


def _family_figures(
    family: Sequence[Results], folder: Path, style: Mapping[str, Style], repeats: int
) -> Iterator[Figure]:
    benchmark = family[0].group.benchmark
    for kind, members in _comparisons(family):
        stem, title = _stem(family, kind), _title(family, kind)
        common = _common(members)
        if not common:
            continue
        scores = {results.group.label: {task: results.normalised()[task] for task in common} for results in members}
        texts = {"task": TASK[benchmark], "which": _which(benchmark, common), "counts": _counts(benchmark, scores)}
        intervals = {
            label: {METRICS[name]: value for name, value in statistics.aggregate(runs, repeats).items()}
            for label, runs in scores.items()
        }
        name = f"{stem}_aggregates"
        paths = figures.draw_intervals(folder, name, intervals, style, NORMALISED[benchmark])
        yield Figure(name, f"{title}: aggregates", AGGREGATES.format(**texts), paths)
        if _fewest(members, common) < 2:
            continue

        values = [score for runs in scores.values() for score in chain(*runs.values())]
        low, high = min(0.0, math.floor(10 * min(values)) / 10), max(1.0, math.ceil(10 * max(values)) / 10)
        thresholds = np.linspace(low, high, THRESHOLDS)
        profiles = {label: statistics.performance_profile(runs, thresholds, repeats) for label, runs in scores.items()}
        name = f"{stem}_profiles"
        paths = figures.draw_profiles(folder, name, thresholds, profiles, style, NORMALISED[benchmark])
        yield Figure(name, f"{title}: performance profiles", PROFILE.format(**texts), paths)

        pairs = {
            (members[0].group.label, other.group.label): statistics.probability_of_improvement(
                scores[members[0].group.label], scores[other.group.label], repeats
            )
            for other in members[1:]
        }
        if pairs:
            name = f"{stem}_improvement"
            paths = figures.draw_probabilities(folder, name, pairs)
            yield Figure(name, f"{title}: probability of improvement", PROBABILITY.format(**texts), paths)


def _differences(family: Sequence[Results], folder: Path, style: Mapping[str, Style], repeats: int) -> Iterator[Figure]:
    """Bars of every method less the reference, over all pairs that the two have."""
    benchmark = family[0].group.benchmark
    reference = next((results for results in family if results.group.method == REFERENCE), None)
    intervals, counts = {}, []
    for other in family if reference else ():
        pairs = statistics.pairs(other.paired(), reference.paired())
        if other is not reference and pairs:
            label = other.group.label
            intervals[label] = statistics.paired_difference(other.paired(), reference.paired(), repeats)
            alone = ", so no interval" if math.isnan(intervals[label][1]) else ""
            number, tasks = _count(sum(map(len, pairs.values())), "pair"), _count(len(pairs), TASK[benchmark])
            counts.append(f"{label}: {number}, {tasks}{alone}.")
    if intervals:
        label, name = reference.group.label, f"{_stem(family)}_differences"
        unit = f"difference of {NORMALISED[benchmark]}"
        caption = DIFFERENCE.format(reference=label, task=TASK[benchmark], counts=" ".join(counts))
        paths = figures.draw_differences(folder, name, intervals, style, unit)
        yield Figure(name, f"{_title(family)}: differences from {label}", caption, paths)


def _curves(runs: Sequence[Run], folder: Path, style: Mapping[str, Style]) -> Iterator[Figure]:
    for benchmark, name in BENCHMARKS.items():
        evaluated = [run for run in runs if run.benchmark == benchmark and run.evaluations]
        order = [*benchmark_tasks(benchmark), *(run.task for run in evaluated)]
        for task in dict.fromkeys(task for task in order if any(run.task == task for run in evaluated)):
            groups: dict[str, list[Run]] = {group.label: [] for group in _groups(evaluated)}
            for run in evaluated:
                if run.task == task:
                    groups[run.group.label].append(run)
            groups = {label: members for label, members in groups.items() if members}
            caption = " ".join(
                f"{label}: {_seeds(members)}; {_episodes(members)} an evaluation." for label, members in groups.items()
            )
            labels = (_steps_label(list(chain(*groups.values()))), RAW[benchmark])
            file = f"{benchmark}_{_slug(task)}_curve"
            lines = _published_lines(benchmark, task, any(run.preset == "full" for run in chain(*groups.values())))
            paths = figures.draw_learning_curve(folder, file, groups, style, labels, lines)
            yield Figure(file, f"{name}: {task}", caption, paths)


def _published_lines(benchmark: str, task: str, full_size: bool) -> dict[str, float]:
    """Scores to compare with, by what they are; published means only beside runs of their size."""
    table = published(benchmark)
    if benchmark == "atari":
        names = {"random policy": "random"}
        if full_size:
            names |= {"Baseline, published, 100k steps": "baseline", "MLR, published, 100k steps": "mlr"}
        return {label: table[task][method] for label, method in names.items()}
    rows = {budget: table.get(f"{task}_{budget}", {}) for budget in BUDGETS if full_size}
    return {f"MLR, published, {budget} steps": row["mlr"] for budget, row in rows.items() if "mlr" in row}


def _steps_label(runs: Sequence[Run]) -> str:
    frames = {run.frames[steps] / steps for run in runs for steps in run.frames if steps}
    unit = f" (one is {max(frames):g} frames)" if len(frames) == 1 and max(frames) > 1 else ""
    return f"environment steps{unit}"


def _videos(runs: Sequence[Run]) -> Iterator[Video]:
    """The newest video in the folder of the first run of each task and group that has one."""
    seen, order = set(), _groups(runs)
    for run in sorted(runs, key=lambda run: (run.benchmark, run.task, order.index(run.group), run.seed)):
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


def _lead(runs: Sequence[Run]) -> str:
    if not runs:
        return "The published scores of Mask-based Latent Reconstruction and of the methods it is compared with."
    return f"The published scores of Mask-based Latent Reconstruction, with {_count(len(runs), 'run')} of ours beside."


def _facts(runs: Sequence[Run], repeats: int) -> dict[str, str]:
    facts = {}
    for group in _groups(runs):
        members = [run for run in runs if run.group == group]
        covered = len({run.task for run in members})
        facts[f"{BENCHMARKS[group.benchmark]}: {group.label}"] = (
            f"{_count(len(members), 'run')}, {covered} of {len(benchmark_tasks(group.benchmark))} "
            f"{TASK[group.benchmark]}s, {_seeds(members)}"
        )
    if runs:
        facts["Intervals"] = f"95 %, {repeats:,} stratified bootstrap resamples (rliable)"
    return {**facts, "Made by": f"mlr-rl {project_version()}, scripts/report.py"}


def _warnings(runs: Sequence[Run]) -> list[str]:
    """What a reader must know before the first number."""
    warnings = [MEANS_ONLY] if runs else [MEANS_ONLY, "No runs were given: all scores here are published ones."]
    order = _groups(runs)
    for results in sorted(collect(runs), key=lambda results: order.index(results.group)):
        name = BENCHMARKS[results.group.benchmark]
        if results.group.preset != "full":
            warnings.append(f"{name}, {results.group.label}: smaller than the paper's, so no reproduction of it.")
        warnings += [f"{name}, {sentence}." for sentence in results.missing()]
    dirty = sum(run.version.endswith(".dirty") for run in runs)
    if dirty:
        warnings.append(f"{dirty} of {_count(len(runs), 'run')} ran with changes that are not in the named commit.")
    return warnings


def _gaps(family: Sequence[Results]) -> Iterator[str]:
    """Why a comparison lacks figures."""
    task = TASK[family[0].group.benchmark]
    for kind, members in _comparisons(family):
        names, common = "; ".join(results.group.label for results in members), _common(members)
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


def _common(members: Sequence[Results]) -> list[str]:
    """Tasks that all have, in the order of the benchmark."""
    first, *others = members
    tasks = [task for task in first.runs if all(task in other.runs for other in others)]
    order = benchmark_tasks(first.group.benchmark)
    return sorted(tasks, key=lambda task: (order.index(task) if task in order else len(order), task))


def _which(benchmark: str, tasks: Sequence[str]) -> str:
    whole = len(benchmark_tasks(benchmark))
    if len(tasks) == whole:
        return f"all {whole} {TASK[benchmark]}s"
    names = f" ({', '.join(tasks)})" if len(tasks) <= 6 else ""
    return f"{len(tasks)} of {whole} {TASK[benchmark]}s{names}"


def _counts(benchmark: str, scores: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    texts = []
    for label, runs in scores.items():
        least, most = (pick(map(len, runs.values())) for pick in (min, max))
        texts.append(f"{label} {least}" + (f" to {most}" if most > least else ""))
        if most == 1:
            texts[-1] += ", so no interval"
    return f"Runs per {TASK[benchmark]}: {'; '.join(texts)}."


def _title(family: Sequence[Results], kind: str = "") -> str:
    size = family[0].group.label.partition(", ")[2]
    parts = (BENCHMARKS[family[0].group.benchmark], kind, size, f"{family[0].env_steps:,} steps")
    return ", ".join(filter(None, parts))


def _stem(family: Sequence[Results], kind: str = "") -> str:
    group = family[0].group
    parts = (group.benchmark, group.preset, group.fidelity, str(family[0].env_steps), kind)
    return _slug("_".join(filter(None, parts)))


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
