"""Tables of a report: the published numbers beside our runs.

Scores of the papers' tables are means without single runs, so they have no intervals. Scores of our runs have them.
An incomplete score says so in its cell and in the notes.
"""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from statistics import mean, median, stdev

from harness.files import ROOT
from harness.report import statistics
from harness.report.cells import ABSENT, Number, count_cell, interval_cell, range_cell, score_cell, share
from harness.report.comparisons import Ablation, Family, ablations, common_tasks, differences
from harness.report.published import PLAYER, PublishedMethod, SuiteScores
from harness.report.results import Results, Run, collect, collect_by_budget, said_once
from harness.report.table import OURS, Table
from harness.report.words import plural

SMALLER = "smaller than the paper's setting, so not comparable with published scores"
MEANS_ONLY = "The papers' tables hold means only, without intervals. Tables of methods with single runs have them."
OF_MEANS = {  # rows of a suite's table that are over the means of tasks
    "mean": mean,
    "median": median,
    "iqm of means": statistics.iqm,
    "optimality_gap of means": statistics.optimality_gap,
}


def suite_table(suite: SuiteScores, runs: Sequence[Run], repeats: int = statistics.REPEATS) -> Table:
    """A suite's published means, and a column for each group of its `runs`.

    A row for each task, also where only runs of ours have it, and for aggregates of those with published scores.
    """
    collected = collect_by_budget(runs, suite)
    everything = [results for found in collected.values() for results in found]
    groups = list(dict.fromkeys(results.group for results in everything if results.runs))
    further = sorted({task for results in everything for task in results.runs} - set(suite.tasks))
    names = {task: task for task in (*suite.tasks, *further)} | _summary_rows(suite)
    has_steps = any(suite.budgets.values())  # otherwise there is one budget, and no column for it
    rows = []
    for (budget, env_steps), found in collected.items():
        ours = {results.group: _our_column(results, repeats) for results in found if results.runs}
        columns = [_published_column(suite, method, budget) for method in suite.methods]
        columns += [ours.get(group, {}) for group in groups]
        for key, name in names.items():
            cells = [column.get(key, ABSENT) for column in columns]
            if (budget and key not in further) or any(cell is not ABSENT for cell in cells):
                rows.append([*([f"{env_steps:,}"] if has_steps else []), name, *cells])
    header = [*(["environment steps"] if has_steps else []), suite.task_word]
    header += [method.label if method.role == PLAYER else f"{method.label}, published" for method in suite.methods]
    header += [f"{OURS}{group.label}" for group in groups]
    notes = [suite.legend, *_published_notes(suite), *_notes(everything, repeats)]
    return Table(suite.name, suite.title or f"{suite.label}: scores", header, rows, notes, key=int(has_steps))


def _summary_rows(suite: SuiteScores) -> dict[str, str]:
    """Names of the rows below the tasks, by what they hold; IQM and optimality gap where a paper prints them."""
    word = suite.task_word
    printed = {
        "iqm": f"IQM over runs × {word}s",
        "iqm of means": f"IQM of {word} means",
        "optimality_gap": f"optimality gap over runs × {word}s",
        "optimality_gap of means": f"optimality gap of {word} means",
    }
    rows = {"mean": "mean", "median": "median"} | (printed if suite.aggregates else {})
    return rows | {"tasks": f"{word}s", "seeds": "seeds"}


def _published_notes(suite: SuiteScores) -> list[str]:
    word = suite.task_word
    if not suite.methods:
        return []
    if not suite.aggregates:
        return [f"{MEANS_ONLY} Their mean and median over {word}s are computed from these means."]
    return [
        f"{MEANS_ONLY} Their mean, median and rows of {word} means are computed from these means; "
        f"IQM and optimality gap over runs × {word}s are as the paper prints them.",
        f"The IQM of {word} means is another number than the IQM over runs × {word}s, and so is the optimality gap.",
    ]


def _published_column(suite: SuiteScores, method: PublishedMethod, budget: str) -> dict[str, str]:
    name, deviations = method.method, suite.deviations.get(budget, {})
    known = {task: row[name] for task, row in suite.means.get(budget, {}).items() if name in row}
    if not known:
        return {}
    mark = share(len(known), len(suite.tasks), f"{suite.task_word}s")
    averaged = [suite.averaged(task, score) for task, score in known.items()]
    return {
        **{task: score_cell(score, deviations[task].get(name), suite.score_digits) for task, score in known.items()},
        **_of_means(suite, averaged, mark),
        **{metric: score_cell(printed[name], digits=3) for metric, printed in suite.aggregates.items()},
        "tasks": count_cell(len(known), len(suite.tasks)),
        "seeds": _seeds(method),
    }


def _our_column(results: Results, repeats: int) -> dict[str, str]:
    suite, averaged, mark = results.suite, results.averaged(), _mark_of(results)
    column = {task: _task_score(results, task) for task in results.runs}
    if averaged:
        column |= _of_means(suite, [mean(runs) for runs in averaged.values()], mark)
        intervals = statistics.aggregate(averaged, repeats)
        column |= {metric: interval_cell(interval, mark, suite.mean_digits) for metric, interval in intervals.items()}
    return {**column, "tasks": _task_count(results), "seeds": _seed_count(results)}


def _of_means(suite: SuiteScores, means: Sequence[float], mark: str) -> dict[str, str]:
    rows = _summary_rows(suite)
    return {
        row: score_cell(function(means), digits=suite.mean_digits, mark=mark)
        for row, function in OF_MEANS.items()
        if row in rows
    }


def aggregates_table(families: Iterable[Family], repeats: int = statistics.REPEATS) -> Table:
    """A row for each group of runs and number of steps at which figures compare it: the four aggregates."""
    collected, rows = list(chain(*families)), []
    for results in collected:
        group, mark = results.group, _mark_of(results)
        intervals = statistics.aggregate(results.normalised(), repeats).values()
        steps = Number(f"{results.env_steps:,}", results.env_steps)
        cells = [interval_cell(interval, mark) for interval in intervals]
        rows.append([group.suite, group.label, steps, _task_count(results), _seed_count(results), *cells])
    header = ["suite", "runs", "environment steps", "tasks", "seeds", *statistics.METRICS.values()]
    notes = ["IQM and optimality gap over runs × tasks, median and mean of task means."]
    notes += said_once(entry for results in collected for entry in results.uncounted())
    notes += _interval_notes(collected, repeats)
    return Table("aggregates", "Our runs: aggregates of normalised scores", header, rows, notes, key=1)


def further_tables(runs: Sequence[Run], suites: Mapping[str, SuiteScores]) -> list[Table]:
    """A row for each task that no aggregate counts, and each group of `runs` on it, at its end: one table or none."""
    rows = []
    for results in collect(runs, suites):
        for task, by_seed in results.runs.items():
            if task not in results.suite.tasks:
                steps = results.steps(task)
                cells = [Number(f"{steps:,}", steps), count_cell(len(by_seed)), _task_score(results, task)]
                rows.append([results.group.suite, task, results.group.label, *cells])
    header = ["suite", "task", "runs", "environment steps", "seeds", "score"]
    title, notes = "Our runs: tasks without published scores", ["Mean over seeds, ± their standard deviation."]
    return [Table("further_tasks", title, header, rows, notes, key=1)] if rows else []


def ablation_tables(families: Iterable[Family], repeats: int = statistics.REPEATS) -> list[Table]:
    """Arms by tasks, the base in its place: a table a base."""
    return [_ablation_table(ablation, repeats) for family in families for ablation in ablations(family)]


def _ablation_table(ablation: Ablation, repeats: int) -> Table:
    base, members = ablation.base, [ablation.base, *ablation.arms.values()]
    suite, group, common, rows = base.suite, base.group, common_tasks(members), []
    tasks = [task for task in suite.tasks if any(task in results.runs for results in members)]
    for label, results in ablation.rows():
        cells = [_task_score(results, task) for task in tasks]
        overall = interval_cell(statistics.aggregate(results.normalised(common), repeats)["mean"]) if common else ABSENT
        rows.append([label, *cells, overall])
    which = plural(len(common), suite.task_word)
    header = ["setting", *tasks, f"{suite.normalised_unit}, mean of {which}"]
    notes = [
        f"Changes of one setting of {group.label}, after {base.env_steps:,} environment steps. {suite.legend}",
        f"Last column: mean over runs, then over the {which} that all rows have.",
        *said_once(entry for results in members for entry in results.missing()),
        *_interval_notes(members, repeats),
    ]
    title = f"Ablations of {group.label} on {suite.label} after {base.env_steps:,} environment steps"
    return Table(f"ablations_{base.own_stem}", title, header, rows, notes)


def difference_tables(families: Iterable[Family], repeats: int = statistics.REPEATS) -> list[Table]:
    """Results minus those of a reference with the same seeds: a table a reference."""
    found = (each for family in families for each in differences(family))
    tables = [_difference_table(reference, others, repeats) for reference, others in found]
    return [table for table in tables if table.rows]


def _difference_table(reference: Results, others: Sequence[Results], repeats: int) -> Table:
    suite, group, second, rows, lacks = reference.suite, reference.group, reference.paired(), [], []
    for other in others:
        first, label = other.paired(), other.group.label
        pairs = statistics.pairs(first, second)
        lacking = sorted({*first, *second} - pairs.keys())
        if lacking:
            lacks.append((other.group, f"no seed in common with {group.label} on {', '.join(lacking)}"))
        if pairs:
            overall, differences = statistics.paired_differences(first, second, repeats)
            expected = len({*reference.seeds(suite.tasks), *other.seeds(suite.tasks)})
            for task, seeds in pairs.items():
                scores = [mean(results.score(task, seed) for seed in seeds) for results in (reference, other)]
                difference = interval_cell(differences[task], share(len(seeds), expected, "seeds"))
                rows.append([label, task, count_cell(len(seeds)), *map(score_cell, scores), difference])
            count, mark = count_cell(sum(map(len, pairs.values()))), _mark(suite, pairs, expected)
            rows.append([label, f"mean of {len(pairs)}", count, ABSENT, ABSENT, interval_cell(overall, mark)])
    header = ["setting", "task", "pairs", group.label, "setting's score", f"difference, {suite.normalised_unit}"]
    return Table(
        f"differences_{reference.own_stem}",
        f"Differences from {group.label} on {suite.label} after {reference.env_steps:,} environment steps",
        header,
        rows,
        [
            f"Difference: setting less {group.label} on the same seed, so below 0 the setting is worse; mean over "
            "seeds, then over tasks. Scores are means over the same pairs.",
            *said_once([*lacks, *(entry for results in (reference, *others) for entry in results.missing())]),
            *_interval_notes([reference, *others], repeats, "pairs"),
        ],
        key=1,
    )


def provenance_table(runs: Sequence[Run], suites: Mapping[str, SuiteScores]) -> Table:
    """A row for each run: what it is, how far it came, and the file that has its episodes."""
    rows = []
    for run in runs:
        episodes = len(run.evaluations[run.env_steps].scores) if run.evaluations else 0
        counts = [Number(f"{count:,}", count) for count in (run.agent_steps, run.env_steps, episodes)]
        digits, mark = suites[run.suite].run_digits, "" if run.is_finished else "not finished"
        score = score_cell(run.final, digits=digits, mark=mark) if episodes else "not evaluated yet"
        names = [run.suite, run.task, run.group.name, run.preset, run.fidelity, Number(str(run.seed), run.seed)]
        rows.append([*names, *counts, score, run.config_hash, run.version, run.hardware, _shown(run.path)])
    header = ["suite", "task", "method", "preset", "fidelity", "seed", "agent steps", "environment steps"]
    header += ["episodes", "score", "configuration", "version", "hardware", "file"]
    notes = ["A score is the mean of the column `score` over the file's rows with these environment steps."]
    notes += [
        f"{suite.label}: of the column `{suite.measure}`, and of the last {suite.averaged_evaluations} evaluations."
        for suite in suites.values()
        if suite.measure != "score" and any(run.suite == suite.name for run in runs)
    ]
    return Table("provenance", "Where our numbers come from", header, rows, notes, key=1)


def sources_table(suites: Mapping[str, SuiteScores]) -> Table:
    """A row for each published method: seeds, source and file."""
    rows = [
        [suite.name, method.label, _seeds(method), method.source, suite.file]
        for suite in suites.values()
        for method in suite.methods
    ]
    header = ["suite", "method", "seeds", "source", "file"]
    return Table("sources", "Where the published numbers come from", header, rows, [MEANS_ONLY])


def _notes(collected: Sequence[Results], repeats: int) -> list[str]:
    """Runs behind the columns of ours, and missing ones."""
    said = []
    for results in collected:
        group, runs = results.group, results.members
        if runs:
            episodes = _either(len(run.evaluations[results.steps(run.task)].scores) for run in runs)
            ends = "".join(f", {task} after {end:,}" for task, end in results.ends.items() if task in results.runs)
            seeds = ", ".join(map(str, results.seeds([run.task for run in (*runs, *results.left_out)])))
            steps = f"after {results.env_steps:,} environment steps{ends}"
            said.append((group, f"{steps}, {episodes} episodes a run, seeds {seeds}"))
            if group.preset != "full" and results.suite.methods:
                said.append((group, SMALLER))
            versions = {version for run in runs for version in run.version.split("; ")}
            if len(versions) > 1:
                said.append((group, f"made by several versions of the code, {_either(versions)}"))
        said += results.missing()
    return said_once(said) + _interval_notes(collected, repeats)


def _interval_notes(collected: Sequence[Results], repeats: int, units: str = "runs") -> list[str]:
    said, resampled = [], False
    for results in collected:
        group, runs = results.group, results.counted or results.runs
        single = [task for task, of_task in runs.items() if len(of_task) == 1]
        resampled |= len(single) < len(results.counted)
        if single and len(single) == len(runs):
            said.append((group, "no task has a second run, so there is neither deviation nor interval"))
        elif single and results.counted:
            said.append((group, f"intervals are too narrow, because there is one run of {', '.join(single)}"))
    notes = said_once(said)
    if resampled:
        notes.append(
            f"[low, high]: 95 % stratified bootstrap over {units} × tasks, percentiles of {repeats:,} resamples; "
            "deviations divide by the number of seeds less one."
        )
    return notes


def _either(values: Iterable[object]) -> str:
    return " or ".join(map(str, sorted(set(values))))


def _mark(suite: SuiteScores, runs: Mapping[str, Collection], seeds: int) -> str:
    """In a few words, what an aggregate over `runs`, by task, is not over."""
    marks = [
        share(len(runs), len(suite.tasks), f"{suite.task_word}s"),
        "seeds missing" if any(len(of_task) < seeds for of_task in runs.values()) else "",
    ]
    return ", ".join(filter(None, marks))


def _mark_of(results: Results) -> str:
    return _mark(results.suite, results.counted, len(results.seeds(results.suite.tasks)))


def _task_count(results: Results) -> Number:
    """Tasks that aggregates count; all where the suite has no published ones."""
    whole = len(results.suite.tasks)
    return count_cell(len(results.counted), whole) if whole else count_cell(len(results.runs))


def _task_score(results: Results, task: str) -> Number:
    """Mean and deviation of the runs of a task."""
    if task not in results.runs:
        return ABSENT
    scores, digits = [results.score(task, seed) for seed in results.runs[task]], results.suite.run_digits
    std, mark = stdev(scores) if len(scores) > 1 else None, share(len(scores), len(results.expected(task)), "seeds")
    return score_cell(mean(scores), std, digits, mark, seeds=len(scores))


def _seeds(method: PublishedMethod) -> str:
    if method.role == PLAYER:
        return ""
    return Number(method.seeds, int(method.seeds)) if method.seeds else "not stated"


def _seed_count(results: Results) -> Number:
    """Number of seeds of each task, counted ones if there are any: one number, or the least and the most."""
    counts = [len(runs) for runs in (results.counted or results.runs).values()]
    return range_cell(min(counts), max(counts))


def _shown(path: Path) -> str:
    """`path` as the project knows it, or as it was given."""
    absolute = Path(os.path.abspath(path))
    return str(absolute.relative_to(ROOT)) if absolute.is_relative_to(ROOT) else str(path)
