"""Ablations: arms, their axes, the base in its place, and the same numbers in figure and table."""

import csv
from statistics import mean

import pytest

from harness.report.captioned import Drawing, ablation_figures
from harness.report.comparisons import ablations, differences, families, methods
from harness.report.tables import ablation_tables
from recipes import SUITE_SCORES as SUITES
from tests.harness.report.test_tables import make_run

RATIO, DEPTH, TOKENS, TAU = "mlr.mask.ratio", "mlr.decoder.depth", "mlr.action_tokens", "mlr.tau"
CHANGES = [{}, *({RATIO: (0.5, value)} for value in (0.7, 0.3, 0.9)), {TOKENS: (True, False)}, {TAU: (1.0, 0.1)}]


def grid(changes, method="mlr", tasks=("finger_spin", "walker_walk"), seeds=(1, 2)):
    """Runs whose score tells task, setting and seed."""
    return [
        make_run(task, seed, {100_000: 100.0 * i + 10 * j + seed}, "dmcontrol", method, changes=change)
        for i, change in enumerate(changes)
        for j, task in enumerate(tasks)
        for seed in seeds
    ]


def test_the_base_stands_between_its_neighbours_and_arms_without_numbers_behind_it():
    (family,) = families(grid(CHANGES), SUITES)
    (ablation,) = ablations(family)
    assert [label for label, _ in ablation.rows()] == [
        "MLR (base)", "no action tokens", "tau 0.1",
        "mask ratio 0.3", "mask ratio 0.5 (base)", "mask ratio 0.7", "mask ratio 0.9",
    ]  # fmt: skip
    (axis,) = ablation.axes()
    assert (axis.key, axis.own, list(axis.results)) == (RATIO, 0.5, [0.3, 0.5, 0.7, 0.9])
    assert axis.results[0.5] is ablation.base
    assert [len(members) for _, members in methods(family)] == [1], "arms are no methods"


def test_two_keys_have_an_axis_at_each_value_of_the_other():
    both = [{RATIO: (0.5, ratio), DEPTH: (2, depth)} for ratio in (0.3, 0.7) for depth in (1, 4)]
    single = [*({RATIO: (0.5, ratio)} for ratio in (0.3, 0.7)), *({DEPTH: (2, depth)} for depth in (1, 4))]
    (family,) = families(grid([{}, *single, *both]), SUITES)
    found = {(each.base.group.name, axis.key): list(axis.results) for each in ablations(family) for axis in each.axes()}
    ratios, depths = [0.3, 0.5, 0.7], [1, 2, 4]
    assert found == {
        ("MLR", DEPTH): depths,
        ("MLR", RATIO): ratios,
        ("MLR (mask ratio 0.3)", DEPTH): depths,
        ("MLR (mask ratio 0.7)", DEPTH): depths,
        ("MLR (decoder depth 1)", RATIO): ratios,
        ("MLR (decoder depth 4)", RATIO): ratios,
    }
    nearest = {reference.group.name: len(others) for reference, others in differences(family)}
    assert nearest == {"MLR": 4, "MLR (decoder depth 1)": 2, "MLR (decoder depth 4)": 2}


def test_a_key_whose_base_differs_between_tasks_has_no_axis():
    runs = grid([{}, {RATIO: (0.5, 0.3)}, {RATIO: (0.5, 0.7)}])
    runs += grid([{}, {RATIO: (0.4, 0.3)}, {RATIO: (0.4, 0.7)}], tasks=("reacher_easy",))
    (ablation,) = ablations(next(families(runs, SUITES)))
    assert ablation.axes() == [] and list(ablation.others()) == ["MLR (base)", "mask ratio 0.3", "mask ratio 0.7"]


def test_figure_and_table_of_an_ablation_show_the_mean_of_the_scores(tmp_path):
    (family,) = families(grid(CHANGES), SUITES)
    (written,) = ablation_tables([family], 20)
    figures = {figure.name: figure for figure in ablation_figures(family, Drawing(tmp_path, {}, 20))}

    def read(name):
        return list(csv.DictReader(figures[name].paths[-1].read_text().splitlines()))

    stem, column = "dmcontrol_cpu_released_100000", "return / 1000, mean of 2 tasks"
    assert written.name == f"ablations_{stem}_mlr"
    table = {row["setting"]: row for row in csv.DictReader(written.csv().splitlines())}
    drawn = [row for row in read(f"{stem}_ablation_mlr_mask_ratio") if row["panel"] == "mean of 2 tasks"]
    assert [row["value"] for row in drawn] == ["0.3", "0.5", "0.7", "0.9"]
    for row, i in zip(drawn, (2, 0, 1, 3), strict=True):
        known = table[f"mask ratio {row['value']}" + " (base)" * (i == 0)]
        assert float(row["point"]) == pytest.approx(mean((100 * i + 10 * j + s) / 1000 for j in (0, 1) for s in (1, 2)))
        assert [row[end] for end in ("point", "low", "high")] == [known[column + end] for end in ("", " low", " high")]
        assert float(known["walker_walk"]) == pytest.approx(100 * i + 10 + 1.5)
    others = read(f"{stem}_mlr_ablations")
    assert {row["group"] for row in others} == {"MLR (base)", "no action tokens", "tau 0.1"}
    assert "Hollow: the base, mask ratio 0.5." in figures[f"{stem}_ablation_mlr_mask_ratio"].caption
