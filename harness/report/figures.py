"""Figures to print and to read on a screen: PNG, SVG, and the numbers that are drawn as CSV.

Colours can be told apart by colour-blind readers; markers and line styles repeat what they say. No text is below 8 pt.
Intervals and bands whose ends are NaN, because no task has a second run, are not drawn.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, MaxNLocator

from harness.report.published import Curve
from harness.report.scores import Run
from harness.report.statistics import Interval

INK, FAINT, PAPER = "#1f2328", "#c8ccd1", "#ffffff"  # text and axes, grid, ground
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = ("o", "s", "^", "D", "v", "P")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
ACROSS = (":", "--", "-.", (0, (5, 5)), (0, (3, 1, 1, 1)))  # of scores to compare with
STEPS = (1, 2, 2.5, 5, 10)  # between ticks
WIDTH = 4.4  # inches: between one column and a page, and not much shrunk on a phone
SETTINGS = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that every machine draws the same
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "svg.hashsalt": "report",  # two calls write the same bytes
}


@dataclass(frozen=True)
class Figure:
    name: str  # of its files, without suffix
    title: str
    caption: str
    paths: tuple[Path, ...]  # PNG, SVG, CSV


@dataclass(frozen=True)
class Style:
    colour: str
    marker: str
    line: str | tuple


def styles(labels: Sequence[str]) -> dict[str, Style]:
    """A colour, marker and line style of its own for each label, in the given order."""
    kinds = (
        Style(PALETTE[i % 6], MARKERS[(i + i // 6) % 6], LINES[(i + 2 * (i // 6)) % 6])  # all differ up to the 36th
        for i in range(len(labels))
    )
    return dict(zip(labels, kinds, strict=True))


def draw_intervals(
    folder: Path, name: str, intervals: Mapping[str, Mapping[str, Interval]], style: Mapping[str, Style], unit: str
) -> tuple[Path, ...]:
    """Points with intervals: a panel for each measure, two in a row, and in it a row for each label.

    intervals: label -> measure -> (point, low, high). `unit` names the x axis of all panels.
    """
    labels = list(intervals)
    measures = list(dict.fromkeys(measure for row in intervals.values() for measure in row))
    lines = -(-len(measures) // 2)
    with _canvas(folder, name, 0.2 + lines * (0.55 + 0.32 * len(labels))) as (canvas, table):
        table.append(("group", "measure", "point", "low", "high"))
        axes = canvas.subplots(lines, 2, sharey=True, squeeze=False).flat
        for panel, measure in zip(axes, measures, strict=False):
            for y, label in enumerate(labels):
                if measure in intervals[label]:
                    _interval(panel, y, intervals[label][measure], style[label])
                    table.append((label, measure, *intervals[label][measure]))
            _rows(panel, labels)
            panel.set_title(measure, loc="left")
        for panel in axes[len(measures) :]:
            panel.set_visible(False)
        canvas.supxlabel(unit, fontsize=9)
    return _paths(folder, name)


def draw_profiles(
    folder: Path,
    name: str,
    thresholds: Sequence[float],
    profiles: Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[float]]],
    style: Mapping[str, Style],
    unit: str,
) -> tuple[Path, ...]:
    """Share of runs x tasks that score above each threshold, with a band. profiles: label -> (point, low, high)."""
    with _canvas(folder, name, 3.0) as (canvas, table):
        table.append(("group", "threshold", "point", "low", "high"))
        axes = canvas.subplots()
        every = max(1, len(thresholds) // 8)
        for i, (label, (point, low, high)) in enumerate(profiles.items()):
            kind, first = style[label], i * every // len(profiles)
            axes.fill_between(thresholds, low, high, color=kind.colour, alpha=0.18, linewidth=0)
            markers = {"marker": kind.marker, "markevery": (first, every)}
            axes.plot(thresholds, point, color=kind.colour, ls=kind.line, label=label, **markers)
            table += [(label, *row) for row in zip(thresholds, point, low, high, strict=True)]
        axes.set_xlabel(f"{unit} τ")
        axes.set_ylabel("share of runs with score > τ")
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlim(thresholds[0], thresholds[-1])
        axes.legend()
    return _paths(folder, name)


def draw_probabilities(folder: Path, name: str, pairs: Mapping[tuple[str, str], Interval]) -> tuple[Path, ...]:
    """Probability that a run of the first of each pair beats a run of the second; one half is no difference."""
    with _canvas(folder, name, 0.85 + 0.42 * len(pairs)) as (canvas, table):
        table.append(("group", "over", "point", "low", "high"))
        axes = canvas.subplots()
        for y, (pair, interval) in enumerate(pairs.items()):
            _interval(axes, y, interval, Style(INK, "o", "-"))
            table.append((*pair, *interval))
        _rows(axes, [f"{first}\nover {second}" for first, second in pairs])
        axes.axvline(0.5, color=INK, linewidth=0.8, linestyle=":")
        axes.set_xlim(-0.02, 1.02)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
        axes.set_xlabel("probability of improvement")
    return _paths(folder, name)


def draw_differences(
    folder: Path, name: str, differences: Mapping[str, Interval], style: Mapping[str, Style], unit: str
) -> tuple[Path, ...]:
    """Bars with intervals. differences: label -> (point, low, high), 0 is no difference."""
    with _canvas(folder, name, 0.75 + 0.32 * len(differences)) as (canvas, table):
        table.append(("group", "point", "low", "high"))
        axes = canvas.subplots()
        for y, (label, (point, low, high)) in enumerate(differences.items()):
            axes.barh(y, point, height=0.55, color=style[label].colour, alpha=0.75)
            axes.plot([low, high], [y, y], color=INK, linewidth=1.2, marker="|", markersize=7)
            table.append((label, point, low, high))
        _rows(axes, list(differences))
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_xlabel(unit)
    return _paths(folder, name)


def draw_learning_curve(
    folder: Path,
    name: str,
    groups: Mapping[str, Sequence[Run]],
    style: Mapping[str, Style],
    axes_labels: tuple[str, str],
    lines: Mapping[str, float],
    points: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    panel: tuple[str, Sequence[tuple[float, float]]] | None = None,
    *,
    behind: Mapping[str, Curve] | None = None,
    marks: Mapping[str, Sequence[int]] | None = None,
    width: float = 3.5,
) -> tuple[Path, ...]:
    """Mean evaluation score of each group's runs of one task over environment steps.

    groups: label -> runs. Thin lines are the runs. The mean and a band of one standard deviation cover the steps at
    which every run of the group was evaluated. lines: label -> a score to compare with, drawn across where it is near
    the curves. points: label -> single episodes. panel: label and values of a curve below, on a logarithmic scale.
    behind: label -> a published curve, drawn in grey up to the last evaluation here. width: inches.
    marks: label -> environment steps of events, each an upright line.
    """
    points, behind, marks, ratios = points or {}, behind or {}, marks or {}, [2, 1] if panel else [1]
    entries = sum(map(len, (groups, lines, points, behind, marks)))
    height = 2.6 + 0.17 * entries + (1.3 if panel else 0)
    with _canvas(folder, name, height, width) as (canvas, table):
        table.append(("group", "seed", "environment steps", "score", "episodes", "file"))
        axes, *below = canvas.subplots(len(ratios), sharex=True, squeeze=False, height_ratios=ratios)[:, 0]
        last_step = max((run.env_steps for runs in groups.values() for run in runs), default=0)
        for (label, curve), line in zip(behind.items(), cycle(ACROSS), strict=False):
            drawn = _draw_behind(axes, label, curve, last_step, line)
            table += [(label, "", steps, mean, "", "") for steps, mean in drawn]
        for (label, values), marker in zip(points.items(), ("x", "."), strict=False):
            axes.plot(*_columns(values), color=INK, alpha=0.5, linestyle="", marker=marker, label=label)
        for label, runs in groups.items():
            _curve(axes, runs, style[label], f"{label} ({len(runs)} {'run' if len(runs) == 1 else 'runs'})")
            for run in runs:
                for steps, scores in run.evaluations.items():
                    table.append((label, run.seed, steps, run.mean_at(steps), len(scores), run.path))
        _draw_lines(axes, lines)
        for label, steps in marks.items():
            for number, step in enumerate(steps):
                axes.axvline(step, color=INK, alpha=0.5, linewidth=0.8, ls=":", label=None if number else label)
        axes.set_ylabel(axes_labels[1])
        for part in below:
            part.semilogy(*_columns(panel[1]), color=PALETTE[0], marker=".")
            part.set_ylabel(panel[0])
        last = below[-1] if below else axes
        last.set_xlabel(axes_labels[0])
        last.set_xlim(left=0)
        last.xaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
        last.xaxis.set_major_formatter(FuncFormatter(_thousands))
        canvas.legend(loc="outside lower center", ncols=1, handlelength=3)
    return _paths(folder, name)


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _draw_behind(axes, label: str, curve: Curve, last_step: int, line) -> list[tuple[int, float]]:
    """Draws a published curve and its band as far as `last_step`; returns its points."""
    shown = [each for each in zip(*curve, strict=True) if each[0] <= last_step]
    steps, means, deviations = (np.array(values) for values in zip(*shown, strict=True)) if shown else ([], [], [])
    axes.plot(steps, means, color=INK, alpha=0.55, linewidth=1, ls=line, zorder=1, label=label)
    if shown:
        axes.fill_between(steps, means - deviations, means + deviations, color=INK, alpha=0.08, linewidth=0, zorder=0)
    return [(steps, mean) for steps, mean, _ in shown]


def _draw_lines(axes, lines: Mapping[str, float]) -> None:
    """A line across for each score to compare with; its value alone where it would flatten the curves."""
    low, high = axes.get_ylim()
    for (label, value), line in zip(lines.items(), cycle(ACROSS), strict=False):
        near = 2 * low - high <= value <= 2 * high - low
        where = "" if near else ", off the scale"
        axes.axhline(value if near else np.nan, color=INK, linewidth=0.9, ls=line, label=f"{label}: {value:g}{where}")


def _curve(axes, runs: Sequence[Run], style: Style, label: str) -> None:
    scores = [{steps: run.mean_at(steps) for steps in run.evaluations} for run in runs]
    for run in scores if len(scores) > 1 else []:
        axes.plot(list(run), list(run.values()), color=style.colour, linewidth=0.6, alpha=0.6)
    common = sorted(set.intersection(*(set(run) for run in scores)))
    values = np.array([[run[step] for step in common] for run in scores])  # [runs, steps]
    mean = values.mean(axis=0)
    if len(scores) > 1:
        deviation = values.std(axis=0, ddof=1)
        axes.fill_between(common, mean - deviation, mean + deviation, color=style.colour, alpha=0.18, linewidth=0)
    axes.plot(common, mean, color=style.colour, ls=style.line, marker=style.marker, label=label)


def _interval(axes, y: int, interval: Interval, style: Style) -> None:
    point, low, high = interval
    axes.plot([low, high], [y, y], color=style.colour, linewidth=4, alpha=0.45, solid_capstyle="butt")
    axes.plot(point, y, color=style.colour, marker=style.marker, markersize=6, linestyle="")


def _rows(axes, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), [_broken(label) for label in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)  # the first on top
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=STEPS))


def _broken(label: str) -> str:
    """A long label in two lines, so that it leaves room for the panels."""
    return label.replace(", ", ",\n", 1) if len(label) > 18 and "\n" not in label else label


def _thousands(steps: float, _) -> str:
    return f"{steps / 1000:g}k" if steps else "0"


def _paths(folder: Path, name: str) -> tuple[Path, ...]:
    return tuple(folder / f"{name}{suffix}" for suffix in (".png", ".svg", ".csv"))


@contextmanager
def _canvas(folder: Path, name: str, height: float, width: float = WIDTH) -> Iterator[tuple[Canvas, list[tuple]]]:
    """An empty figure and an empty table of what is drawn, both written to `folder` at the end."""
    table: list[tuple] = []
    png, svg, numbers = _paths(folder, name)
    with matplotlib.rc_context(SETTINGS):
        canvas = Canvas(figsize=(width, height), layout="constrained")
        yield canvas, table
        folder.mkdir(parents=True, exist_ok=True)
        canvas.savefig(png, dpi=200)
        canvas.savefig(svg, metadata={"Date": None})
    with numbers.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(table)
