"""A report: tables, figures, and one page that holds them, from score files and published scores alone."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from harness.files import project_version
from harness.report import captioned, figures, statistics, tables
from harness.report.captioned import Drawing, seeds_of
from harness.report.comparisons import Family, families
from harness.report.figures import Figure
from harness.report.methods import MethodRuns, improvement_table, methods_tables, own_scores
from harness.report.page import Section, Video, build_page
from harness.report.published import SuiteScores
from harness.report.results import Group, Run, Said, collect, every_suite, groups_of, labels, said_once
from harness.report.table import Table, is_own
from harness.report.tables import MEANS_ONLY, SMALLER
from harness.report.words import plural
from harness.run_folder import RunFolder

Suites = Mapping[str, SuiteScores]
OUR_RUNS, ABLATIONS, DIFFERENCES = OF_RUNS = "Our runs", "Ablations", "Differences on equal seeds"  # titles of sections
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
    listed: Sequence[MethodRuns] = (),
    others: Sequence[MethodRuns] = (),
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
    drawing = Drawing(out / "figures", figures.styles([group.label for group in groups_of(runs)]), repeats)
    sections = [each for each in _sections(runs, suites, drawing, media, compared, improvement) if not each.is_empty]
    paths = [path for section in sections for table in section.tables for path in table.write(out / "tables")]
    paths += [path for section in sections for figure in section.figures for path in figure.paths]
    page, lead, facts = out / "index.html", _lead(runs, suites), _facts(runs, suites, repeats)
    said = _caveats(runs, suites)
    on_page = [replace(each, tables=[_without(table, said) for table in each.tables]) for each in sections]
    page.write_text(build_page("Results", lead, facts, _warnings(runs, said), on_page))
    own = [table for section in sections if section.title in OF_RUNS for table in section.tables]
    own += [table for table in chain(*compared.values()) if any(is_own(row) for row in table.rows)]
    return [*paths, page], [*own, *improvement]


def _sections(
    runs: Sequence[Run],
    suites: Suites,
    drawing: Drawing,
    media: bool,
    compared: Mapping[str, list[Table]],
    improvement: list[Table],
) -> Iterator[Section]:
    found, repeats = list(families(runs, suites)), drawing.repeats

    def drawn(draw: Callable[[Family, Drawing], Iterator[Figure]], shown: Sequence[Family]) -> list[Figure]:
        return [figure for family in shown for figure in draw(family, drawing)]

    aggregates = tables.aggregates_table(found, repeats)
    yield Section(OUR_RUNS, tables=[*([aggregates] if aggregates.rows else []), *tables.further_tables(runs, suites)])
    yield Section(ABLATIONS, [], tables.ablation_tables(found, repeats), drawn(captioned.ablation_figures, found))
    ours = {run.suite for run in runs}
    for suite in sorted(suites.values(), key=lambda suite: suite.name not in ours):
        own = [family for family in found if family[0].suite is suite]
        text = [text for family in own for text in captioned.gaps(family)]
        methods = [
            replace(table, is_folded=bool(runs) and not any(map(is_own, table.rows)))
            for table in compared.get(suite.name, ())
        ]
        shown = [table for table in (tables.suite_table(suite, runs, repeats), *methods) if table.rows]
        is_folded = bool(runs) and suite.name not in ours
        yield Section(suite.label, text, shown, drawn(captioned.method_figures, own), is_folded=is_folded)
    yield Section("Probability of improvement", tables=improvement)
    differences = tables.difference_tables(found, repeats)
    yield Section(DIFFERENCES, [], differences, drawn(captioned.difference_figures, found))
    longest = {(family[0].group.size, *(results.group for results in family)): family for family in found}
    curves = [figure for suite in suites.values() for figure in captioned.task_curves(runs, suite, drawing)]
    yield Section("Learning curves", [CURVES], figures=drawn(captioned.mean_curves, [*longest.values()]) + curves)
    if media:
        yield Section("Videos", videos=list(_videos(runs)))
    origins = [tables.provenance_table(runs, suites)] if runs else []
    yield Section("Provenance", [TRACE], [*origins, tables.sources_table(suites)])


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
        for each in run.evaluations.values():
            if each.agent_steps == agent_steps:
                score = f": it scores {each.scores[0]:g}, the mean of {len(each.scores)} is {each.mean:.1f}"
        caption = f"Seed {run.seed}, first episode of the evaluation after {agent_steps:,} agent steps{score}."
        yield Video(f"{run.task}: {run.group.label}", caption, recorded[-1])


def _lead(runs: Sequence[Run], suites: Suites) -> str:
    *others, last = (suite.label for suite in suites.values() if suite.methods)
    names = " and ".join([", ".join(others), last] if others else [last])
    return f"Published scores of {names}" + (f", with {plural(len(runs), 'run')} of ours beside." if runs else ".")


def _facts(runs: Sequence[Run], suites: Suites, repeats: int) -> dict[str, str]:
    said: dict[tuple[str, str], list[Group]] = {}
    for group in groups_of(runs):
        members, suite = [run for run in runs if run.group == group], suites[group.suite]
        parts = plural(len(members), "run"), _covered(suite, {run.task for run in members}), seeds_of(members)
        said.setdefault((suite.label, ", ".join(parts)), []).append(group)
    facts = {}
    for (name, text), groups in said.items():
        facts[f"{name}: {labels(groups)}"] = text + (" each" if len(groups) > 1 else "")
    if runs:
        facts["Intervals"] = f"95 %, {repeats:,} stratified bootstrap resamples (rliable)"
    return {**facts, "Made by": f"mlr-rl {project_version()}, mlr report"}


def _covered(suite: SuiteScores, tasks: set[str]) -> str:
    further = plural(len(tasks - set(suite.tasks)), f"further {suite.task_word}" if suite.tasks else suite.task_word)
    if not suite.tasks:
        return further
    covered = f"{len(tasks & set(suite.tasks))} of {len(suite.tasks)} {suite.task_word}s"
    return f"{covered}, {further}" if tasks - set(suite.tasks) else covered


def _caveats(runs: Sequence[Run], suites: Suites) -> dict[str, list[Said]]:
    """By the suite's label, what our runs of it lack."""
    said: dict[str, list[Said]] = {}
    for results in collect(runs, suites):
        name = results.suite.label
        said.setdefault(name, [])
        if results.group.preset != "full" and results.suite.methods:
            said[name].append((results.group, SMALLER))
        said[name] += results.missing()
    return said


def _without(table: Table, said: Mapping[str, Sequence[Said]]) -> Table:
    """The table without notes that stand at the top of the page."""
    known = tuple({f": {sentence}." for entries in said.values() for _, sentence in entries})
    return replace(table, notes=[note for note in table.notes if not note.endswith(known)])


def _warnings(runs: Sequence[Run], said: Mapping[str, Sequence[Said]]) -> list[str]:
    """Caveats that stand before the first number."""
    warnings = [MEANS_ONLY] if runs else [MEANS_ONLY, "No runs were given: all scores here are published ones."]
    warnings += [f"{name}, {sentence}" for name, entries in said.items() for sentence in said_once(entries)]
    dirty = sum(".dirty" in run.version for run in runs)  # counts runs with uncommitted changes at any start
    if dirty:
        warnings.append(f"{dirty} of {plural(len(runs), 'run')} ran with changes that are not in the named commit.")
    return warnings
