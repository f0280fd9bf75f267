"""Tables of a report: the published numbers beside our runs, as Markdown, CSV and LaTeX.

Published scores are means without single runs, so they have no intervals. What is computed from our runs has them, and
what is incomplete says so in its cell and in the notes.
"""

import csv
import io
import math
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from statistics import mean, median, stdev

from harness.report import statistics
from harness.report.scores import (
    ROOT,
    Results,
    Run,
    benchmark_tasks,
    collect,
    human_normalised,
    published,
    published_std,
    read_table,
)

REFERENCE = "mlr"  # what an ablation is compared with
BUDGETS = {"100k": 100_000, "500k": 500_000}  # environment steps of the published DMControl scores
MEANS_ONLY = "Published scores are means only, no per-run data: they carry no intervals."
PAGE_ROWS = 45
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "×": r"$\times$", "–": "--",
    "<": r"$<$", ">": r"$>$", "[": "{[}", "]": "{]}",
}  # fmt: skip


class Number(str):
    """The text of a cell, with the numbers behind it for the CSV file: `value`, and others by name."""

    columns: dict[str, float | int | str]

    def __new__(cls, text: str, value: float | str = "", **others: float | int | str) -> "Number":
        self = super().__new__(cls, text)
        self.columns = {"": value, **others}
        return self


ABSENT = Number("–")


@dataclass(frozen=True)
class Table:
    """Cells are text; notes are sentences that belong below the table."""

    name: str  # of its files, without suffix
    title: str
    header: list[str]
    rows: list[list[str]]
    notes: list[str]

    def markdown(self) -> str:
        cells = [[cell.replace("|", "\\|") for cell in row] for row in self._lines()]
        lines = ["| " + " | ".join(row) + " |" for row in cells]
        lines.insert(1, "|" + "|".join("---:" if self._is_numeric(i) else "---" for i in range(len(self.header))) + "|")
        return "\n".join([f"### {self.title}", "", *lines, "", *(f"- {note}" for note in self.notes)]).rstrip() + "\n"

    def csv(self) -> str:
        """Unrounded numbers; a column whose cells hold several of them becomes several columns."""
        kinds = [
            list(dict.fromkeys(kind for row in self.rows for kind in getattr(row[i], "columns", {"": ""})))
            for i in range(len(self.header))
        ]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(
            f"{name} {kind}".strip() for name, column in zip(self.header, kinds, strict=True) for kind in column
        )
        for row in self.rows:
            values = [getattr(cell, "columns", {"": cell}) for cell in row]
            writer.writerow(value.get(kind, "") for value, column in zip(values, kinds, strict=True) for kind in column)
        return text.getvalue()

    def latex(self) -> str:
        """Floats of a page at most, shrunk to the page's width if they are wider; they need the package graphicx."""
        kinds = "".join("r" if self._is_numeric(i) else "l" for i in range(len(self.header)))
        stacked = len(kinds) > 8  # cells of several lines keep columns narrow
        header, *rows = (
            " & ".join(_latex_cell(cell, kind, stacked) for cell, kind in zip(row, kinds, strict=True)) + r" \\"
            for row in self._lines()
        )
        floats = []
        for start in range(0, max(1, len(rows)), PAGE_ROWS):
            is_last = start + PAGE_ROWS >= len(rows)
            notes = " ".join(map(_latex, self.notes if is_last else ["Continued below."]))
            floats += [
                r"\begin{table*}[t]",
                r"\centering",
                rf"\caption{{{_latex(self.title)}{', continued' if start else ''}}}",
                rf"\label{{tab:{self.name}{f'-{start}' if start else ''}}}\par\smallskip",
                r"\small",
                r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%",
                rf"\begin{{tabular}}{{{kinds}}}",
                r"\hline",
                header,
                r"\hline",
                *rows[start : start + PAGE_ROWS],
                r"\hline",
                r"\end{tabular}}",
                rf"\par\smallskip\parbox{{\textwidth}}{{\footnotesize {notes}}}",
                r"\end{table*}",
                "",
            ]
        return "\n".join(floats)

    def _lines(self) -> list[list[str]]:
        return [self.header, *self.rows]

    def _is_numeric(self, column: int) -> bool:
        return any(isinstance(row[column], Number) for row in self.rows)


def atari_table(runs: Sequence[Run], repeats: int = statistics.REPEATS) -> Table:
    """The paper's table 1: 26 games, published means, and a column for each group of Atari `runs`."""
    games, ours = benchmark_tasks("atari"), _collect(runs, "atari")
    columns = [_published_atari(method) for method in _methods("atari")]
    aggregates = list(columns[0])[len(games) + 1 :]
    columns += [_our_atari(results, repeats) for results in ours if results.runs]
    names = ("game", *games, *aggregates)
    header, *rows = [[name, *(column.get(name, ABSENT) for column in columns)] for name in names]
    notes = [
        "Games: mean raw score, ± standard deviation over seeds. "
        "Aggregates: of human-normalised scores, where a random player has 0 and a human 1.",
        f"{MEANS_ONLY} Their mean, median and rows of game means are computed from these means; "
        "IQM and optimality gap over runs × games are as the paper prints them.",
        "The IQM of game means is another number than the IQM over runs × games, and so is the optimality gap.",
        *_notes(ours, repeats),
    ]
    return Table("atari", "Atari-100k: scores of 26 games", header, rows, notes)


def _published_atari(method: dict[str, str]) -> dict[str, str]:
    name, scores, std = method["method"], published("atari"), published_std("atari")
    printed = {row["metric"]: Number(row[name], float(row[name])) for row in read_table("atari100k_aggregate")}
    means = [human_normalised(game, scores[game][name]) for game in scores]
    player = name in ("human", "random")
    return {
        "game": method["label"] if player else f"{method['label']}, published",
        **{game: _score(scores[game][name], std[game].get(name)) for game in scores},
        "mean": _score(mean(means), digits=3),
        "median": _score(median(means), digits=3),
        "IQM over runs × games": printed["iqm"],
        "IQM of game means": _score(statistics.iqm(means), digits=3),
        "optimality gap over runs × games": printed["optimality_gap"],
        "optimality gap of game means": _score(statistics.optimality_gap(means), digits=3),
        "games": Number(str(len(means)), len(means)),
        "seeds": "" if player else _seeds(method),
    }


def _our_atari(results: Results, repeats: int) -> dict[str, str]:
    raw, scores, mark = results.raw(), results.normalised(), _mark_of(results)
    means = [mean(runs) for runs in scores.values()]
    intervals = statistics.aggregate(scores, repeats)
    return {
        "game": f"ours: {results.group.label}",
        **{game: _runs(values, len(results.seeds)) for game, values in raw.items()},
        "mean": _interval(intervals["mean"], mark),
        "median": _interval(intervals["median"], mark),
        "IQM over runs × games": _interval(intervals["iqm"], mark),
        "IQM of game means": _score(statistics.iqm(means), digits=3, mark=mark),
        "optimality gap over runs × games": _interval(intervals["optimality_gap"], mark),
        "optimality gap of game means": _score(statistics.optimality_gap(means), digits=3, mark=mark),
        "games": _count(len(means), len(benchmark_tasks("atari"))),
        "seeds": _seed_count(results),
    }


def dmcontrol_table(runs: Sequence[Run], repeats: int = statistics.REPEATS) -> Table:
    """The paper's table 2: six tasks after 100k and 500k environment steps, and a column for each group of `runs`."""
    methods = _methods("dmcontrol")
    collected = {budget: _collect(runs, "dmcontrol", env_steps) for budget, env_steps in BUDGETS.items()}
    ours = {
        (results.group, budget): _our_dmcontrol(results, repeats)
        for budget in BUDGETS
        for results in collected[budget]
        if results.runs
    }
    groups = list(dict.fromkeys(group for group, _ in ours))
    rows = []
    for budget, env_steps in BUDGETS.items():
        columns = [_published_dmcontrol(method, budget) for method in methods]
        columns += [ours.get((group, budget), {}) for group in groups]
        names = [*benchmark_tasks("dmcontrol"), "mean", "median", "tasks", "seeds"]
        rows += [[f"{env_steps:,}", name, *(column.get(name, ABSENT) for column in columns)] for name in names]
    header = ["environment steps", "task", *(f"{method['label']}, published" for method in methods)]
    header += [f"ours: {group.label}" for group in groups]
    notes = [
        "Tasks: mean return of an episode, ± standard deviation over seeds; 1000 is the most.",
        f"{MEANS_ONLY} Their mean and median over tasks are computed from these means.",
        *_notes([results for budget in BUDGETS for results in collected[budget]], repeats),
    ]
    return Table("dmcontrol", "DMControl: returns of six tasks", header, rows, notes)


def _published_dmcontrol(method: dict[str, str], budget: str) -> dict[str, str]:
    name = method["method"]
    scores, std, tasks = published("dmcontrol"), published_std("dmcontrol"), benchmark_tasks("dmcontrol")
    known = {task: scores[f"{task}_{budget}"][name] for task in tasks if name in scores[f"{task}_{budget}"]}
    mark = _share(len(known), len(tasks), "tasks")
    return {
        **{task: _score(score, std[f"{task}_{budget}"].get(name), digits=0) for task, score in known.items()},
        "mean": _score(mean(known.values()), mark=mark),
        "median": _score(median(known.values()), mark=mark),
        "tasks": _count(len(known), len(tasks)),
        "seeds": _seeds(method),
    }


def _our_dmcontrol(results: Results, repeats: int) -> dict[str, str]:
    raw, mark = results.raw(), _mark_of(results)
    intervals = statistics.aggregate(raw, repeats)
    return {
        **{task: _runs(values, len(results.seeds)) for task, values in raw.items()},
        "mean": _interval(intervals["mean"], mark, digits=1),
        "median": _interval(intervals["median"], mark, digits=1),
        "tasks": _count(len(raw), len(benchmark_tasks("dmcontrol"))),
        "seeds": _seed_count(results),
    }


def aggregates_table(runs: Sequence[Run], repeats: int = statistics.REPEATS) -> Table:
    """A row for each group of `runs`: the four aggregates with intervals; DMControl after 100k and 500k steps."""
    collected = _collect(runs, "atari")
    collected += [results for steps in BUDGETS.values() for results in _collect(runs, "dmcontrol", steps)]
    rows = []
    for results in collected:
        if results.runs:
            group, mark = results.group, _mark_of(results)
            intervals = statistics.aggregate(results.normalised(), repeats).values()
            tasks = _count(len(results.runs), len(benchmark_tasks(group.benchmark)))
            steps = Number(f"{results.env_steps:,}", results.env_steps)
            cells = [_interval(interval, mark) for interval in intervals]
            rows.append([group.benchmark, group.label, steps, tasks, _seed_count(results), *cells])
    header = ["benchmark", "runs", "environment steps", "tasks", "seeds", *statistics.METRICS.values()]
    notes = ["IQM and optimality gap over runs × tasks, median and mean of task means."]
    notes += _interval_notes(collected, repeats)
    return Table("aggregates", "Our runs: aggregates of normalised scores", header, rows, notes)


def ablation_tables(runs: Sequence[Run], repeats: int = statistics.REPEATS) -> list[Table]:
    """What else was trained at the size and fidelity of MLR runs, less MLR with the same seeds."""
    tables = []
    for reference in [results.group for results in collect(runs) if results.group.method == REFERENCE]:
        family = [run for run in runs if replace(run.group, method=REFERENCE) == reference]
        ends = {results.env_steps for results in collect(family) if results.group == reference and results.runs}
        if reference.benchmark == "dmcontrol":
            ends |= {steps for steps in BUDGETS.values() if any(steps in run.evaluations for run in family)}
        for env_steps in sorted(ends):
            collected = {results.group: results for results in collect(family, env_steps)}
            others = [results for group, results in collected.items() if group != reference and results.runs]
            if others and collected[reference].runs:
                tables.append(_ablation_table(collected[reference], others, repeats))
    return tables


def _ablation_table(reference: Results, others: Sequence[Results], repeats: int) -> Table:
    group, second, rows, notes = reference.group, reference.paired(), [], []
    for other in others:
        first, label = other.paired(), other.group.label
        pairs = statistics.pairs(first, second)
        lacking = sorted({*first, *second} - pairs.keys())
        if lacking:
            notes.append(f"{label}: no seed in common with {group.label} on {', '.join(lacking)}.")
        if pairs:
            overall, differences = statistics.paired_differences(first, second, repeats)
            expected = len({*reference.seeds, *other.seeds})
            for task, seeds in pairs.items():
                scores = [mean(results.score(task, seed) for seed in seeds) for results in (reference, other)]
                cells = [*map(_score, scores), _interval(differences[task], _share(len(seeds), expected, "seeds"))]
                rows.append([label, task, _count(len(seeds)), *cells])
            count, mark = _count(sum(map(len, pairs.values()))), _mark(group.benchmark, pairs, expected)
            rows.append([label, f"mean of {len(pairs)}", count, ABSENT, ABSENT, _interval(overall, mark)])
    unit = "human-normalised score" if group.benchmark == "atari" else "return / 1000"
    header = ["setting", "task", "pairs", group.label, "setting's score", f"difference, {unit}"]
    benchmark = "Atari" if group.benchmark == "atari" else "DMControl"
    return Table(
        re.sub(r"\W+", "_", f"ablation_{group.benchmark}_{group.preset}_{group.fidelity}_{reference.env_steps}"),
        f"Differences from {group.label} on {benchmark} after {reference.env_steps:,} environment steps",
        header,
        rows,
        [
            f"Difference: setting less {group.label} on the same seed, so below 0 the setting is worse; mean over "
            "seeds, then over tasks. Scores are means over the same pairs.",
            *notes,
            *(f"{sentence}." for results in (reference, *others) for sentence in results.missing()),
            *_interval_notes([reference, *others], repeats, "pairs"),
        ],
    )


def provenance_table(runs: Sequence[Run]) -> Table:
    """A row for each run: what it is, how far it came, and the file that has its episodes."""
    rows = []
    for run in runs:
        steps, episodes = run.env_steps, len(run.evaluations.get(run.env_steps, ()))
        counts = [Number(f"{count:,}", count) for count in (run.agent_steps.get(steps, 0), steps, episodes)]
        score = _score(run.final, mark="" if run.is_finished else "not finished") if episodes else "not evaluated yet"
        names = [run.benchmark, run.task, run.method, run.preset, run.fidelity, Number(str(run.seed), run.seed)]
        rows.append([*names, *counts, score, run.config_hash, run.version, run.hardware, _shown(run.path)])
    header = ["benchmark", "task", "method", "preset", "fidelity", "seed", "agent steps", "environment steps"]
    header += ["episodes", "score", "configuration", "version", "hardware", "file"]
    notes = ["A score is the mean of the column `score` over the file's rows with these environment steps."]
    return Table("provenance", "Where our numbers come from", header, rows, notes)


def sources_table() -> Table:
    """A row for each published method: seeds, source and file."""
    rows = []
    for method in read_table("methods"):
        stem = "atari100k" if method["benchmark"] == "atari" else "dmcontrol"
        seeds = "" if method["method"] in ("human", "random") else _seeds(method)
        rows.append([method["benchmark"], method["label"], seeds, method["source"], f"results/published/{stem}.csv"])
    header = ["benchmark", "method", "seeds", "source", "file"]
    return Table("sources", "Where the published numbers come from", header, rows, [MEANS_ONLY])


def _of(runs: Sequence[Run], benchmark: str) -> list[Run]:
    return [run for run in runs if run.benchmark == benchmark]


def _collect(runs: Sequence[Run], benchmark: str, env_steps: int | None = None) -> list[Results]:
    return collect(_of(runs, benchmark), env_steps)


def _methods(benchmark: str) -> list[dict[str, str]]:
    return [row for row in read_table("methods") if row["benchmark"] == benchmark]


def _notes(collected: Sequence[Results], repeats: int) -> list[str]:
    """What stands behind the columns of our runs, and what they lack."""
    notes = []
    for results in collected:
        label, runs = results.group.label, _runs_of(results)
        if runs:
            episodes = _either(len(run.evaluations[results.env_steps]) for run in runs)
            seeds = ", ".join(map(str, results.seeds))
            notes.append(
                f"{label}: after {results.env_steps:,} environment steps, {episodes} episodes a run, seeds {seeds}."
            )
            if results.group.preset != "full":
                notes.append(f"{label}: smaller than the paper's setting, so not comparable with published scores.")
            if len({run.version for run in runs}) > 1:
                notes.append(f"{label}: made by several versions of the code, {_either(run.version for run in runs)}.")
        notes += [f"{sentence}." for sentence in results.missing()]
    return notes + _interval_notes(collected, repeats)


def _interval_notes(collected: Sequence[Results], repeats: int, drawn: str = "runs") -> list[str]:
    notes, resampled = [], False
    for results in collected:
        label, single = results.group.label, [task for task, runs in results.runs.items() if len(runs) == 1]
        resampled |= len(single) < len(results.runs)
        if single and len(single) == len(results.runs):
            notes.append(f"{label}: no task has a second run, so there is neither deviation nor interval.")
        elif single:
            notes.append(f"{label}: intervals are too narrow, because there is one run of {', '.join(single)}.")
    if resampled:
        notes.append(
            f"[low, high]: 95 % stratified bootstrap over {drawn} × tasks, percentiles of {repeats:,} resamples; "
            "deviations divide by the number of seeds less one."
        )
    return notes


def _either(values: Iterable[object]) -> str:
    return " or ".join(map(str, sorted(set(values))))


def _runs_of(results: Results) -> list[Run]:
    return [run for runs in results.runs.values() for run in runs.values()]


def _mark(benchmark: str, runs: Mapping[str, Collection], seeds: int) -> str:
    """In a few words, what an aggregate over `runs`, by task, is not over."""
    marks = [
        _share(len(runs), len(benchmark_tasks(benchmark)), "games" if benchmark == "atari" else "tasks"),
        "seeds missing" if any(len(of_task) < seeds for of_task in runs.values()) else "",
    ]
    return ", ".join(filter(None, marks))


def _mark_of(results: Results) -> str:
    return _mark(results.group.benchmark, results.runs, len(results.seeds))


def _share(count: int, whole: int, what: str) -> str:
    return "" if count == whole else f"{count} of {whole} {what}"


def _runs(scores: Sequence[float], seeds: int, digits: int = 1) -> Number:
    """Mean and deviation of the runs of a task."""
    std = stdev(scores) if len(scores) > 1 else None
    return _score(mean(scores), std, digits, _share(len(scores), seeds, "seeds"), seeds=len(scores))


def _score(value: float, std: float | None = None, digits: int = 1, mark: str = "", **others: int) -> Number:
    text = rounded(value, digits) + (f" ± {rounded(std, digits)}" if std is not None else "")
    others |= ({} if std is None else {"std": std}) | ({"note": mark} if mark else {})
    return Number(text + _bracketed(mark), value, **others)


def _interval(interval: statistics.Interval, mark: str = "", digits: int = 3) -> Number:
    point, low, high = interval
    note = {"note": mark} if mark else {}
    if math.isnan(low):
        return Number(rounded(point, digits) + _bracketed(mark), point, **note)
    bounds = f" [{rounded(low, digits)}, {rounded(high, digits)}]"
    return Number(rounded(point, digits) + bounds + _bracketed(mark), point, low=low, high=high, **note)


def _bracketed(mark: str) -> str:
    return f" ({mark})" if mark else ""


def _count(count: int, whole: int | None = None) -> Number:
    if whole in (None, count):
        return Number(str(count), count)
    return Number(f"{count} of {whole}", count, note=f"of {whole}")


def _seeds(method: dict[str, str]) -> str:
    return Number(method["seeds"], int(method["seeds"])) if method["seeds"] else "not stated"


def _seed_count(results: Results) -> Number:
    """How many seeds each task has: one number, or the least and the most."""
    least, most = (pick(map(len, results.runs.values())) for pick in (min, max))
    return Number(str(most), most) if least == most else Number(f"{least} to {most}", f"{least} to {most}")


def rounded(value: float, digits: int) -> str:
    """As a person rounds: a half goes up, and nothing is minus zero."""
    text = str(Decimal(repr(float(value))).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP))
    return text.lstrip("-") if float(text) == 0 else text


def _shown(path: Path) -> str:
    """`path` as the project knows it, or as it was given."""
    absolute = Path(os.path.abspath(path))
    return str(absolute.relative_to(ROOT)) if absolute.is_relative_to(ROOT) else str(path)


def _latex_cell(text: str, side: str, stacked: bool) -> str:
    parts = re.split(r"(?<=[,:]) (?=[^\d-])| (?=[\[(]|over |of game)", text) if stacked else [text]
    first, *others = map(_latex, parts)
    lines = "".join(rf" \\ {other}" for other in others)
    return rf"\begin{{tabular}}[t]{{@{{}}{side}@{{}}}}{first}{lines}\end{{tabular}}" if others else first


def _latex(text: str) -> str:
    escaped = "".join(LATEX.get(character, character) for character in text)
    return re.sub(r"(?<![\w.-])-(?=[\d.])", "$-$", escaped)
