"""What is drawn is read back from the figures: lines, bars, texts and their sizes."""

import csv
import itertools
import statistics
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import cv2
import matplotlib.colors
import numpy as np
import pytest
from matplotlib.text import Text

from harness.report import figures
from harness.report.published import Curve
from harness.report.results import Evaluation, Run

LABELS = ["MLR", "Baseline, preset cpu, fidelity paper", "without actions, preset cpu"]
AXES = ("environment steps (one is 4 frames)", "raw game score")
STYLE = figures.styles(LABELS)
# What dichromats see of linear RGB (Machado, Oliveira, Fernandes 2009): protanopia, deuteranopia, tritanopia.
BLINDNESS = np.array(
    [
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    ]
)


@pytest.fixture
def drawn(monkeypatch):
    """The canvas of every figure that the test draws."""
    canvases = []
    save = figures.Canvas.savefig

    def savefig(canvas, path, **options):
        if canvas not in canvases:
            canvases.append(canvas)
        return save(canvas, path, **options)

    monkeypatch.setattr(figures.Canvas, "savefig", savefig)
    return canvases


def make_run(seed: int, evaluations: dict[int, list[float]], method: str = "mlr") -> Run:
    return Run(
        suite="atari",
        task="boxing",
        method=method,
        preset="cpu",
        fidelity="released",
        seed=seed,
        config_hash=f"{seed:016x}",
        version="0.1.0",
        hardware="a CPU",
        path=Path(f"seed_{seed}.csv"),
        evaluations={steps: Evaluation(tuple(scores), steps) for steps, scores in evaluations.items()},
    )


def draw_all(folder: Path) -> list[tuple[Path, ...]]:
    interval = (0.4, 0.3, 0.6)
    thresholds = np.linspace(0, 2, 21)
    profile = (np.exp(-thresholds), 0.9 * np.exp(-thresholds), np.minimum(1, 1.1 * np.exp(-thresholds)))
    measures = ("IQM", "median", "mean", "optimality gap")
    runs = [make_run(seed, {5000: [1.0, 2.0], 10000: [3.0 + seed]}) for seed in (1, 2)]
    unit = "human-normalised score"
    return [
        figures.draw_intervals(folder, "a", {x: dict.fromkeys(measures, interval) for x in LABELS}, STYLE, unit),
        figures.draw_profiles(folder, "b", thresholds, dict.fromkeys(LABELS, profile), STYLE, unit),
        figures.draw_probabilities(folder, "c", {tuple(LABELS[:2]): interval}),
        figures.draw_differences(folder, "d", {x: (-0.1, -0.2, 0.1) for x in LABELS[1:]}, STYLE, unit),
        figures.draw_learning_curve(
            folder, "e", {LABELS[0]: runs, LABELS[1]: runs[:1]}, STYLE, AXES, {"random policy": 0.1}
        ),
    ]


def read(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_every_figure_is_a_png_a_svg_and_a_csv_and_two_calls_write_the_same_bytes(tmp_path):
    for first, second in zip(draw_all(tmp_path / "new"), draw_all(tmp_path / "again"), strict=True):
        png, svg, _ = first
        assert cv2.imread(str(png)).std() > 0
        assert ElementTree.parse(svg).getroot().tag == "{http://www.w3.org/2000/svg}svg"
        assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_colours_differ_also_for_colour_blind_readers():
    srgb = np.array([matplotlib.colors.to_rgb(colour) for colour in figures.PALETTE])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    for seen in (linear, *(linear @ matrix.T for matrix in BLINDNESS)):
        lab = cv2.cvtColor(np.clip(seen, 0, 1)[None].astype(np.float32), cv2.COLOR_LRGB2Lab)[0]
        distances = [np.linalg.norm(a - b) for a, b in itertools.combinations(lab, 2)]
        assert min(distances) > 8  # 2.3 is just noticeable


def test_styles_differ_in_more_than_colour():
    kinds = list(figures.styles([str(i) for i in range(72)]).values())
    assert len(set(kinds)) == 72 and len({kind.colour for kind in kinds[:12]}) == 12
    assert len({(kind.marker, kind.line) for kind in kinds[:12]}) == 12
    for part in ("marker", "line"):
        assert len({getattr(kind, part) for kind in kinds[:6]}) == 6


def test_an_ablation_is_drawn_against_its_values(tmp_path, drawn):
    line = {0.001: (0.4, 0.3, 0.6), 0.01: (0.5, 0.4, 0.6), 1.0: (0.2, float("nan"), float("nan"))}
    figures.draw_ablation(tmp_path, "x", {"pong": {LABELS[0]: line}}, {LABELS[0]: 0.01}, STYLE, ("tau", "score"))
    (axes,) = drawn[0].axes
    curve, *marks = axes.lines
    assert [list(curve.get_xdata()), list(curve.get_ydata())] == [[0.001, 0.01, 1.0], [0.4, 0.5, 0.2]]
    assert [list(bar.get_ydata()) for bar in marks[:4:2]] == [[0.3, 0.6], [0.4, 0.6]] and axes.get_xscale() == "log"
    hollow = [point.get_xdata()[0] for point in marks[1::2] if point.get_markerfacecolor() == figures.PAPER]
    assert hollow == [0.01] and [text.get_text() for text in axes.get_xticklabels()] == ["0.001", "0.01", "1"]


def test_many_curves_are_spread_over_panels_with_the_first_in_each(tmp_path, drawn):
    labels = [f"arm {i}" for i in range(8)]
    groups = {label: [make_run(1, {5000: [float(i)]})] for i, label in enumerate(labels)}
    figures.draw_learning_curve(tmp_path, "x", groups, figures.styles(labels), AXES, {"random policy": 0.5})
    panels = [axes for axes in drawn[0].axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in panels] == labels[1:]
    assert [[line.get_ydata()[0] for line in axes.lines] for axes in panels] == [[0.0, i, 0.5] for i in range(1, 8)]
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["arm 0 (1 run)", "random policy: 0.5"]


def test_texts_are_large_enough_to_print_and_nothing_is_cut_off_or_covered(tmp_path, drawn):
    paths = draw_all(tmp_path)
    labels = [f"arm {i} (agent steps 15,000, experiment-ratio-2-tf32, replay ratio 2)" for i in range(9)]
    groups = {label: [make_run(1, {5000: [1.0], 9000: [2.0]})] for label in labels}
    curves = {label: ([0, 5], [0, 1], [0, 1], [0, 1]) for label in labels}
    ablation = {"pong": {label: {1.0: (0.1, 0.0, 0.2), 2.0: (0.1, 0.0, 0.2)} for label in labels[:2]}}
    style = figures.styles(labels)
    paths += [
        figures.draw_learning_curve(tmp_path, "f", groups, style, AXES, {"random policy": 0.1}),
        figures.draw_mean_curves(tmp_path, "g", curves, style, AXES),
        figures.draw_ablation(tmp_path, "h", ablation, dict.fromkeys(labels[:2], 1.0), style, AXES),
    ]
    for canvas, (png, *_) in zip(drawn, paths, strict=True):
        sizes = [text.get_fontsize() for text in canvas.findobj(Text) if text.get_text()]
        assert len(sizes) > 5 and min(sizes) >= 8
        image = cv2.imread(str(png))
        assert min(edge.min() for edge in (image[:3], image[-3:], image[:, :3], image[:, -3:])) == 255, png
        further = [text for text in (canvas._supxlabel, canvas._supylabel) if text]
        boxes = [each.get_window_extent() for each in (*canvas.legends, *further)]
        boxes += [axes.get_tightbbox() for axes in canvas.axes if axes.get_visible()]
        assert not any(axes.get_legend() for axes in canvas.axes)
        for first, second in itertools.combinations(boxes, 2):
            overlap = first.intersection(first, second)
            assert overlap is None or min(overlap.width, overlap.height) < 1, canvas


def test_intervals_are_drawn_where_they_are(tmp_path, drawn):
    intervals = {"MLR": {"IQM": (0.4, 0.3, 0.6), "mean": (0.5, 0.1, 0.9)}, LABELS[1]: {"IQM": (0.2, 0.1, 0.25)}}
    figures.draw_intervals(tmp_path, "x", intervals, STYLE, "score")
    iqm, mean = drawn[0].axes
    assert [panel.get_title(loc="left") for panel in drawn[0].axes] == ["IQM", "mean"]
    assert [list(line.get_xdata()) for line in iqm.lines] == [[0.3, 0.6], [0.4], [0.1, 0.25], [0.2]]
    assert [list(line.get_xdata()) for line in mean.lines] == [[0.1, 0.9], [0.5]]
    assert [label.get_text().split(",")[0] for label in iqm.get_yticklabels()] == ["MLR", "Baseline"]
    assert read(tmp_path / "x.csv")[1:] == [
        ["MLR", "IQM", "0.4", "0.3", "0.6"],
        [LABELS[1], "IQM", "0.2", "0.1", "0.25"],
        ["MLR", "mean", "0.5", "0.1", "0.9"],
    ]
    low, high = iqm.get_ylim()
    assert low > high  # the first label is on top


def test_bars_reach_the_difference_and_lines_its_interval(tmp_path, drawn):
    figures.draw_differences(tmp_path, "x", {LABELS[1]: (-0.1, -0.2, 0.05)}, STYLE, "difference")
    (axes,) = drawn[0].axes
    (bar,) = axes.patches
    assert bar.get_width() == -0.1
    assert list(axes.lines[0].get_xdata()) == [-0.2, 0.05]


def test_a_learning_curve_shows_mean_band_and_each_run(tmp_path, drawn):
    scores = {1: {5000: [1.0, 3.0], 10000: [6.0]}, 2: {5000: [5.0], 10000: [7.0, 9.0]}, 3: {5000: [0.5], 10000: [4.0]}}
    runs = [make_run(seed, evaluations) for seed, evaluations in scores.items()]
    figures.draw_learning_curve(tmp_path, "x", {"MLR": runs}, STYLE, AXES, {"random policy": 0.1})
    (axes,) = drawn[0].axes
    *single, mean, random = axes.lines
    assert [list(line.get_ydata()) for line in single] == [[2.0, 6.0], [5.0, 8.0], [0.5, 4.0]]
    assert list(mean.get_xdata()) == [5000, 10000]
    assert list(mean.get_ydata()) == pytest.approx([2.5, 6.0])
    assert mean.get_label() == "MLR (3 runs)"
    assert list(random.get_ydata()) == [0.1, 0.1]
    assert (axes.get_xlabel(), axes.get_ylabel()) == AXES
    corners = axes.collections[0].get_paths()[0].vertices
    band = [y for x, y in corners if x == 5000]
    deviation = statistics.stdev([2.0, 5.0, 0.5])
    rows = [[row[1], row[2], row[3]] for row in read(tmp_path / "x.csv")]
    assert ["1", "5000", "2.0"] in rows and ["2", "10000", "8.0"] in rows and len(rows) == 7
    assert (min(band), max(band)) == pytest.approx((2.5 - deviation, 2.5 + deviation))


def test_a_score_far_from_the_curves_is_named_and_not_drawn(tmp_path, drawn):
    runs = [make_run(1, {5000: [1.0], 10000: [2.0]})]
    figures.draw_learning_curve(tmp_path, "x", {"MLR": runs}, STYLE, AXES, {"near": 2.5, "far": 900.0, "low": -5.0})
    _, near, far, low = drawn[0].axes[0].lines
    assert list(near.get_ydata()) == [2.5, 2.5] and np.isnan([*far.get_ydata(), *low.get_ydata()]).all()
    assert [line.get_label() for line in (near, far)] == ["near: 2.5", "far: 900, off the scale"]
    low, high = drawn[0].axes[0].get_ylim()
    assert 0.5 < low < 1 and 2.5 < high < 3


def test_an_axis_with_limits_shows_all_between_them(tmp_path, drawn):
    zeros, point = [make_run(1, {5000: [0.0], 10000: [0.0]})], {"MLR": {"IQM": (0.0, 0.0, 0.0)}}
    figures.draw_learning_curve(tmp_path, "a", {"MLR": zeros}, STYLE, AXES, {}, limits=(0, 1))
    figures.draw_mean_curves(tmp_path, "b", {"MLR": ([5000], [1.0], [1.0], [1.0])}, STYLE, AXES, (0, 1))
    figures.draw_ablation(tmp_path, "c", {"IQM": {"MLR": {1: (0, 0, 0)}}}, {"MLR": 1}, STYLE, AXES, (0, 1))
    figures.draw_intervals(tmp_path, "d", point, STYLE, "success", (0, 1))
    shown = [canvas.axes[0].get_ylim() for canvas in drawn[:3]] + [drawn[3].axes[0].get_xlim()]
    assert shown == [pytest.approx((-0.03, 1.03))] * 4


def test_a_published_curve_reaches_the_last_step_and_is_left_out_if_it_begins_later(tmp_path, drawn):
    near, far = Curve((5000, 15000), (1.0, 2.0), (0.0, 0.2)), Curve((11000, 12000), (3.0, 4.0), (0.0, 0.0))
    runs = {"MLR": [make_run(1, {5000: [1.0], 10000: [2.0]})]}
    figures.draw_learning_curve(tmp_path, "x", runs, STYLE, AXES, {}, behind={"near": near, "far": far})
    behind, own = drawn[0].axes[0].lines
    assert behind.get_label() == "near" and own.get_label() == "MLR (1 run)"
    assert [list(behind.get_xdata()), list(behind.get_ydata())] == [[5000, 10000], [1.0, 1.5]]
    assert [row[2:4] for row in read(tmp_path / "x.csv") if row[0] == "near"] == [["5000", "1.0"]]


def test_a_single_run_can_show_its_episodes_and_a_panel_below(tmp_path, drawn):
    runs, points = [make_run(1, {5000: [1.0], 10000: [2.0]})], {"training": [(10, 0.5), (20, 3.0)], "evaluation": []}
    panel = ("error", [(5000, 0.1), (10000, 0.01)])
    figures.draw_learning_curve(tmp_path, "x", {"MLR": runs}, STYLE, AXES, {}, points, panel)
    above, below = drawn[0].axes
    training, evaluation, curve = above.lines
    assert [list(training.get_xdata()), list(training.get_ydata())] == [[10, 20], [0.5, 3.0]]
    assert training.get_label() == "training" and len(evaluation.get_xdata()) == 0 and len(curve.get_xdata()) == 2
    assert list(below.lines[0].get_ydata()) == [0.1, 0.01] and below.get_yscale() == "log"
    assert (above.get_xlabel(), below.get_xlabel(), below.get_ylabel()) == ("", AXES[0], "error")


def test_a_mean_is_not_drawn_where_a_run_is_missing(tmp_path, drawn):
    runs = [make_run(1, {5000: [1.0], 10000: [2.0]}), make_run(2, {5000: [3.0]})]
    figures.draw_learning_curve(tmp_path, "x", {"MLR": runs}, STYLE, AXES, {})
    first, second, mean = drawn[0].axes[0].lines
    assert list(first.get_xdata()) == [5000, 10000]
    assert list(second.get_xdata()) == list(mean.get_xdata()) == [5000]
    assert list(mean.get_ydata()) == [2.0]


def test_a_single_run_has_no_band(tmp_path, drawn):
    figures.draw_learning_curve(tmp_path, "x", {"MLR": [make_run(1, {5000: [1.0]})]}, STYLE, AXES, {})
    assert not drawn[0].axes[0].collections
    assert [line.get_label() for line in drawn[0].axes[0].lines] == ["MLR (1 run)"]


def test_without_an_interval_only_the_point_is_drawn(tmp_path, drawn):
    alone = (0.4, float("nan"), float("nan"))
    figures.draw_intervals(tmp_path, "x", {"MLR": {"IQM": alone}}, STYLE, "score")
    figures.draw_differences(tmp_path, "y", {LABELS[1]: alone}, STYLE, "difference")
    figures.draw_probabilities(tmp_path, "z", {("MLR", LABELS[1]): alone})
    for canvas in drawn:
        for path in canvas.axes[0].lines[:1]:
            assert np.isnan(path.get_xdata()).all()
    assert read(tmp_path / "x.csv")[1] == ["MLR", "IQM", "0.4", "nan", "nan"]


def test_a_row_is_as_high_as_its_label(tmp_path, drawn):
    labels = ["MLR", *(f"Baseline, resets and annealing (agent steps 15,000, 2 updates a step) {i}" for i in "abc")]
    figures.draw_differences(tmp_path, "x", dict.fromkeys(labels, (0.1, 0.0, 0.2)), figures.styles(labels), "score")
    (axes,) = drawn[0].axes
    boxes = [text.get_window_extent() for text in axes.get_yticklabels()]
    assert all(below.y1 < above.y0 for above, below in itertools.pairwise(boxes))
    assert [bar.get_y() + bar.get_height() / 2 for bar in axes.patches] == pytest.approx(axes.get_yticks())
