"""Figures to print and to read on a screen: PNG, SVG, and the numbers that are drawn as CSV.

Colours can be told apart by colour-blind readers; markers and line styles repeat what they say. No text is below 8 pt.
Intervals and bands whose ends are NaN, because no task has a second run, are not drawn. Legends lie outside the axes.
More than MOST curves are spread over panels, the first of them in each.
"""

import csv
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, cycle
from pathlib import Path
from textwrap import wrap

import matplotlib
import numpy as np
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, MaxNLocator

from harness.report.published import Curve
from harness.report.results import Run
from harness.report.statistics import Interval
from harness.report.words import plural

INK, FAINT, PAPER = "#1f2328", "#c8ccd1", "#ffffff"  # text and axes, grid, ground
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
PALETTE += ("#610505", "#7f0df2", "#994c33", "#a6a659", "#421fad", "#242442")
MARKERS = ("o", "s", "^", "D", "v", "P")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
MOST = 6  # curves of a panel
ACROSS = (":", "--", "-.", (0, (5, 5)), (0, (3, 1, 1, 1)))  # lines of scores to compare with
STEPS = (1, 2, 2.5, 5, 10)  # between ticks
MARGIN = 0.03  # beyond an axis' limits, relative to their distance
LINE = 0.17  # inches, of a legend
ROW, PAIR_ROW, ROW_LINE = 0.32, 0.42, 0.15  # inches, of a row and of a line of its label
ENDS = ("point", "low", "high")  # columns of an interval
LETTERS = 24  # letters of a line above one of two panels
LEGEND = 34  # letters of a line of a legend
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

Limits = tuple[float, float] | None  # ends of an axis; None: as the data have it


@dataclass(frozen=True)
class Figure:
    name: str  # file name without suffix
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
    kinds = (  # all differ up to the 72nd
        Style(PALETTE[i % 12], MARKERS[(i + i // 6 + i // 12) % 6], LINES[(i + 2 * (i // 6)) % 6])
        for i in range(len(labels))
    )
    return dict(zip(labels, kinds, strict=True))


def draw_intervals(
    folder: Path,
    name: str,
    intervals: Mapping[str, Mapping[str, Interval]],
    style: Mapping[str, Style],
    unit: str,
    limits: Limits = None,
) -> tuple[Path, ...]:
    """Points with intervals: a panel for each measure, two in a row, and in it a row for each label.

    intervals: label -> measure -> (point, low, high). `unit` names the x axis of all panels, `limits` are its.
    """
    labels = list(intervals)
    measures = list(dict.fromkeys(measure for row in intervals.values() for measure in row))
    lines, (places, end) = -(-len(measures) // 2), _places(labels)
    height = 0.2 + lines * (0.55 + ROW * end)
    with _canvas(folder, name, ("group", "measure", *ENDS), height) as (canvas, table):
        axes = canvas.subplots(lines, 2, sharey=True, squeeze=False).flat
        for panel, measure in zip(axes, measures, strict=False):
            for y, label in zip(places, labels, strict=True):
                if measure in intervals[label]:
                    _interval(panel, y, intervals[label][measure], style[label])
                    table.append((label, measure, *intervals[label][measure]))
            _rows(panel, labels, places, end)
            _show_all(panel.set_xlim, limits)
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
    with _canvas(folder, name, ("group", "threshold", *ENDS), 2.8 + LINE * len(profiles)) as (canvas, table):
        axes = canvas.subplots()
        every = max(1, len(thresholds) // 8)
        for i, (label, (point, low, high)) in enumerate(profiles.items()):
            first = i * every // len(profiles)
            _band(axes, thresholds, low, high, style[label])
            _line(axes, thresholds, point, style[label], label, markevery=(first, every))
            table += [(label, *row) for row in zip(thresholds, point, low, high, strict=True)]
        axes.set_xlabel(f"{unit} τ")
        axes.set_ylabel("share of runs with score > τ")
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlim(thresholds[0], thresholds[-1])
        _legend(canvas)
    return _paths(folder, name)


def draw_probabilities(folder: Path, name: str, pairs: Mapping[tuple[str, str], Interval]) -> tuple[Path, ...]:
    """Probability that a run of the first of each pair beats a run of the second; one half is no difference."""
    labels = [f"{first}\nover {second}" for first, second in pairs]
    places, end = _places(labels, PAIR_ROW)
    with _canvas(folder, name, ("group", "over", *ENDS), 0.85 + PAIR_ROW * end) as (canvas, table):
        axes = canvas.subplots()
        for y, (pair, interval) in zip(places, pairs.items(), strict=True):
            _interval(axes, y, interval, Style(INK, "o", "-"))
            table.append((*pair, *interval))
        _rows(axes, labels, places, end)
        axes.axvline(0.5, color=INK, linewidth=0.8, linestyle=":")
        axes.set_xlim(-0.02, 1.02)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
        axes.set_xlabel("probability of improvement")
    return _paths(folder, name)


def draw_differences(
    folder: Path, name: str, differences: Mapping[str, Interval], style: Mapping[str, Style], unit: str
) -> tuple[Path, ...]:
    """Bars with intervals. differences: label -> (point, low, high), 0 is no difference."""
    places, end = _places(differences)
    with _canvas(folder, name, ("group", *ENDS), 0.75 + ROW * end) as (canvas, table):
        axes = canvas.subplots()
        for y, (label, (point, low, high)) in zip(places, differences.items(), strict=True):
            axes.barh(y, point, height=0.55, color=style[label].colour, alpha=0.75)
            axes.plot([low, high], [y, y], color=INK, linewidth=1.2, marker="|", markersize=7)
            table.append((label, point, low, high))
        _rows(axes, differences, places, end)
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_xlabel(unit)
    return _paths(folder, name)


def draw_ablation(
    folder: Path,
    name: str,
    panels: Mapping[str, Mapping[str, Mapping[float, Interval]]],
    bases: Mapping[str, float],
    style: Mapping[str, Style],
    axes_labels: tuple[str, str],
    limits: Limits = None,
) -> tuple[Path, ...]:
    """Score against an ablated value, with intervals, the base's point larger and hollow.

    panels: title -> label of a line -> value -> (point, low, high). bases: the base's value of each line.
    """
    values = sorted({value for lines in panels.values() for line in lines.values() for value in line})
    rows, columns = -(-len(panels) // 2), min(2, len(panels))
    height = 0.5 + 1.9 * rows + LINE * len(bases)
    with _canvas(folder, name, ("panel", "group", "value", *ENDS), height) as (canvas, table):
        axes = canvas.subplots(rows, columns, squeeze=False, sharex=True).flat
        for panel, (title, lines) in zip(axes, panels.items(), strict=False):
            for label, line in lines.items():
                kind = style[label]
                points = [point for point, *_ in line.values()]
                panel.plot(list(line), points, color=kind.colour, ls=kind.line, label=label)
                for value, (point, low, high) in line.items():
                    _bar(panel, [value, value], [low, high], kind)
                    hollow = {"markersize": 8, "markerfacecolor": PAPER} if value == bases[label] else {}
                    panel.plot(value, point, color=kind.colour, marker=kind.marker, linestyle="", **hollow)
                    table.append((title, label, value, point, low, high))
            panel.set_title(title, loc="left")
            _show_all(panel.set_ylim, limits)
            if values[0] > 0 and values[-1] > 10 * values[0]:
                panel.set_xscale("log")
            shown = values[:: 1 + len(values) // 7]
            panel.set_xticks(shown, [f"{value:g}" for value in shown])
            panel.minorticks_off()
        _finish_grid(axes, len(panels))
        canvas.supxlabel(axes_labels[0], fontsize=9)
        canvas.supylabel(axes_labels[1], fontsize=9)
        if len(bases) > 1:
            _legend(canvas)
    return _paths(folder, name)


def draw_mean_curves(
    folder: Path,
    name: str,
    curves: Mapping[str, tuple[Sequence[int], Sequence[float], Sequence[float], Sequence[float]]],
    style: Mapping[str, Style],
    axes_labels: tuple[str, str],
    limits: Limits = None,
) -> tuple[Path, ...]:
    """Curves with bands. curves: label -> steps, points, lows, highs."""
    with _canvas(folder, name, ("group", "environment steps", *ENDS), *_size(curves)) as (canvas, table):
        for axes, labels in _panels(canvas, curves):
            for label in labels:
                steps, points, lows, highs = curves[label]
                _band(axes, steps, lows, highs, style[label])
                _line(axes, steps, points, style[label], label)
            _show_all(axes.set_ylim, limits)
        for label, curve in curves.items():
            table += [(label, *row) for row in zip(*curve, strict=True)]
        _steps_axis(canvas, axes_labels)
        _legend(canvas)
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
    limits: Limits = None,
    width: float = 3.5,
) -> tuple[Path, ...]:
    """Mean evaluation score of each group's runs of one task over environment steps.

    groups: label -> runs. Thin lines are the runs. The mean and a band of one standard deviation cover the steps at
    which every run of the group was evaluated. lines: label -> a score to compare with, drawn across where it is near
    the curves. points: label -> single episodes. panel: label and values of a curve below, on a logarithmic scale.
    behind: label -> a published curve, drawn in grey up to the last evaluation here, and left out if it begins later.
    marks: label -> environment steps of events, each an upright line. limits: of scores. width: inches, of one panel.
    """
    last_step = max((run.env_steps for runs in groups.values() for run in runs), default=0)
    behind = {label: curve for label, curve in (behind or {}).items() if curve.env_steps[0] <= last_step}
    points, marks = points or {}, marks or {}
    header = ("group", "seed", "environment steps", "score", "episodes", "file")
    height, width = _size(groups, sum(map(len, (lines, points, behind, marks))), width)
    with _canvas(folder, name, header, height + (1.3 if panel else 0), width) as (canvas, table):
        for axes, labels in _panels(canvas, groups, below=panel is not None):
            for (label, curve), line in zip(behind.items(), cycle(ACROSS), strict=False):
                _draw_behind(axes, label, curve, last_step, line)
            for (label, values), marker in zip(points.items(), ("x", "."), strict=False):
                axes.plot(*_columns(values), color=INK, alpha=0.5, linestyle="", marker=marker, label=label)
            for label in labels:
                _curve(axes, groups[label], style[label], f"{label} ({plural(len(groups[label]), 'run')})")
            _show_all(axes.set_ylim, limits)
            _draw_lines(axes, lines)
            for label, steps in marks.items():
                for number, step in enumerate(steps):
                    axes.axvline(step, color=INK, alpha=0.5, linewidth=0.8, ls=":", label=None if number else label)
        for label, curve in behind.items():
            table += [(label, "", steps, mean, "", "") for steps, mean, _ in _until(curve, last_step)]
        for label, runs in groups.items():
            for run in runs:
                for steps, each in run.evaluations.items():
                    table.append((label, run.seed, steps, each.mean, len(each.scores), run.path))
        if panel:
            *_, below = canvas.axes
            below.semilogy(*_columns(panel[1]), color=PALETTE[0], marker=".")
            below.set_ylabel(panel[0])
        _steps_axis(canvas, axes_labels)
        _legend(canvas)
    return _paths(folder, name)


def _size(curves: Collection[str], further: int = 0, width: float = 3.5) -> tuple[float, float]:
    """Height and width of a figure of these curves, with `further` lines in its legend."""
    if len(curves) <= MOST:
        lines = sum(_broken(label, LEGEND).count("\n") + 1 for label in curves)
        return 2.6 + LINE * (lines + further), width
    return 0.5 + 1.7 * (len(curves) // 2) + LINE * (1 + further), WIDTH


def _panels(canvas: Canvas, curves: Collection[str], below: bool = False) -> Iterator[tuple]:
    """Axes, each with the labels of its curves: all, or beyond MOST the first one beside each of the others."""
    first, *others = curves or [None]
    if len(curves) <= MOST:
        ratios = [2, 1] if below else [1]
        yield canvas.subplots(len(ratios), sharex=True, squeeze=False, height_ratios=ratios)[0, 0], list(curves)
        return
    grid = canvas.subplots(-(-len(others) // 2), 2, squeeze=False, sharex=True, sharey=True).flat
    for axes, label in zip(grid, others, strict=False):
        axes.set_title(_broken(label), loc="left")
        yield axes, [first, label]
    _finish_grid(grid, len(others))


def _finish_grid(grid: Sequence, used: int) -> None:
    """Hides axes that nothing is drawn in; the lowest of each column has labels."""
    for axes in grid[used:]:
        axes.set_visible(False)
    for axes in grid[max(0, used - 2) : used]:
        axes.tick_params(labelbottom=True)


def _steps_axis(canvas: Canvas, axes_labels: tuple[str, str]) -> None:
    """Labels both axes: at the only panel, or once for all."""
    first, *others = canvas.axes
    if any(axes.get_title(loc="left") for axes in canvas.axes):
        canvas.supxlabel(axes_labels[0], fontsize=9)
        canvas.supylabel(axes_labels[1], fontsize=9)
    else:
        first.set_ylabel(axes_labels[1])
        (others or [first])[-1].set_xlabel(axes_labels[0])
    first.set_xlim(left=0)
    for axes in canvas.axes:
        axes.xaxis.set_major_locator(MaxNLocator(5 if not others else 4, steps=STEPS))
        axes.xaxis.set_major_formatter(FuncFormatter(_thousands))


def _legend(canvas: Canvas) -> None:
    """Outside the axes, each label once; a panel's title names its own curve."""
    found: dict[str, object] = {}
    for axes in canvas.axes:
        title = axes.get_title(loc="left").replace("\n", " ")
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            if not title or not label.startswith(title):
                found.setdefault(label, handle)
    where = "upper" if canvas.get_supxlabel() else "lower"
    labels = [_broken(label, LEGEND) for label in found]
    canvas.legend(found.values(), labels, loc=f"outside {where} center", ncols=1, handlelength=3)


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _until(curve: Curve, last_step: int) -> list[tuple[float, float, float]]:
    return [each for each in zip(*curve, strict=True) if each[0] <= last_step]


def _draw_behind(axes, label: str, curve: Curve, last_step: int, line) -> None:
    """Draws a published curve and its band as far as `last_step`, straight between points; a single one is a dot."""
    steps = sorted({*(step for step, *_ in _until(curve, last_step)), min(last_step, curve.env_steps[-1])})
    means, deviations = (np.interp(steps, curve.env_steps, values) for values in (curve.means, curve.deviations))
    kind = {"ls": line, "marker": "." if len(steps) == 1 else ""}
    axes.plot(steps, means, color=INK, alpha=0.55, linewidth=1, zorder=1, label=label, **kind)
    axes.fill_between(steps, means - deviations, means + deviations, color=INK, alpha=0.08, linewidth=0, zorder=0)


def _show_all(set_limits: Callable[[float, float], object], limits: Limits) -> None:
    """Sets an axis to show all between the limits, with a margin."""
    if limits is not None:
        low, high = limits
        set_limits(low - MARGIN * (high - low), high + MARGIN * (high - low))


def _draw_lines(axes, lines: Mapping[str, float]) -> None:
    """A line across for each score to compare with; its value alone where it would flatten the curves."""
    low, high = axes.get_ylim()
    for (label, value), line in zip(lines.items(), cycle(ACROSS), strict=False):
        near = 2 * low - high <= value <= 2 * high - low
        where = "" if near else ", off the scale"
        axes.axhline(value if near else np.nan, color=INK, linewidth=0.9, ls=line, label=f"{label}: {value:g}{where}")


def _curve(axes, runs: Sequence[Run], style: Style, label: str) -> None:
    scores = [{steps: each.mean for steps, each in run.evaluations.items()} for run in runs]
    for run in scores if len(scores) > 1 else []:
        axes.plot(list(run), list(run.values()), color=style.colour, linewidth=0.6, alpha=0.6)
    common = sorted(set.intersection(*(set(run) for run in scores)))
    values = np.array([[run[step] for step in common] for run in scores])  # [runs, steps]
    mean = values.mean(axis=0)
    if len(scores) > 1:
        deviation = values.std(axis=0, ddof=1)
        _band(axes, common, mean - deviation, mean + deviation, style)
    _line(axes, common, mean, style, label)


def _line(axes, x: Sequence, y: Sequence, style: Style, label: str, **settings) -> None:
    axes.plot(x, y, color=style.colour, ls=style.line, marker=style.marker, label=label, **settings)


def _band(axes, x: Sequence, low: Sequence, high: Sequence, style: Style) -> None:
    axes.fill_between(x, low, high, color=style.colour, alpha=0.18, linewidth=0)


def _interval(axes, y: int, interval: Interval, style: Style) -> None:
    point, low, high = interval
    _bar(axes, [low, high], [y, y], style)
    axes.plot(point, y, color=style.colour, marker=style.marker, markersize=6, linestyle="")


def _bar(axes, x: Sequence, y: Sequence, style: Style) -> None:
    axes.plot(x, y, color=style.colour, linewidth=4, alpha=0.45, solid_capstyle="butt")


def _places(labels: Collection[str], row: float = ROW) -> tuple[list[float], float]:
    """Middle of each label's row and the end of all, in rows; one with many lines is higher than `row` inches."""
    heights = [max(1, ROW_LINE / row * len(_broken(label).splitlines())) for label in labels]
    ends = list(accumulate(heights))
    return [end - height / 2 - 0.5 for end, height in zip(ends, heights, strict=True)], ends[-1]


def _rows(axes, labels: Collection[str], places: Sequence[float], end: float) -> None:
    axes.set_yticks(places, [_broken(label) for label in labels])
    axes.set_ylim(end - 0.4, -0.6)  # the first on top
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=STEPS))


def _broken(label: str, letters: int = LETTERS) -> str:
    """A long label in several lines, so that it is not cut off and leaves room for the panels."""
    return "\n".join(part for line in label.splitlines() for part in wrap(line, letters, break_on_hyphens=False))


def _thousands(steps: float, _) -> str:
    return f"{steps / 1000:g}k" if steps >= 1000 else f"{steps:g}"


def _paths(folder: Path, name: str) -> tuple[Path, ...]:
    return tuple(folder / f"{name}{suffix}" for suffix in (".png", ".svg", ".csv"))


@contextmanager
def _canvas(
    folder: Path, name: str, header: tuple[str, ...], height: float, width: float = WIDTH
) -> Iterator[tuple[Canvas, list[tuple]]]:
    """An empty figure and a table of what is drawn, both written to `folder` at the end."""
    table: list[tuple] = [header]
    png, svg, numbers = _paths(folder, name)
    with matplotlib.rc_context(SETTINGS):
        canvas = Canvas(figsize=(width, height), layout="constrained")
        yield canvas, table
        folder.mkdir(parents=True, exist_ok=True)
        canvas.savefig(png, dpi=200)
        canvas.savefig(svg, metadata={"Date": None})
    with numbers.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(table)
