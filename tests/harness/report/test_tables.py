"""The published columns of both tables, and our runs beside them."""

import csv
import io
import itertools
import re
import shutil
import subprocess
from pathlib import Path
from statistics import mean, median, stdev

import pytest

from harness.files import ROOT
from harness.report.cells import Number, rounded
from harness.report.comparisons import families
from harness.report.published import read_table
from harness.report.results import Evaluation, Run, every_suite
from harness.report.scores import read_runs
from harness.report.statistics import aggregate
from harness.report.table import Table
from harness.report.tables import (
    aggregates_table,
    difference_tables,
    further_tables,
    provenance_table,
    sources_table,
    suite_table,
)
from recipes import SUITE_SCORES as SUITES
from recipes.changes import identify
from tests.waiting import HANG

ATARI, DMCONTROL = SUITES["atari"], SUITES["dmcontrol"]
# Mean and median human-normalised score, and IQM and optimality gap over runs x games as the paper prints them.
COLUMNS = {
    "human": ("1.000", "1.000", "1.000", "0.000"),
    "random": ("0.000", "0.000", "0.000", "1.000"),
    "DER, published": ("0.350", "0.189", "0.183", "0.698"),
    "OTR, published": ("0.217", "0.128", "0.117", "0.819"),
    "CURL, published": ("0.261", "0.092", "0.113", "0.768"),
    "DrQ, published": ("0.369", "0.212", "0.224", "0.692"),
    "SPR, published": ("0.616", "0.396", "0.337", "0.577"),
    "PlayVirtual, published": ("0.637", "0.472", "0.374", "0.558"),
    "Baseline, published": ("0.498", "0.314", "0.292", "0.614"),
    "MLR, published": ("0.679", "0.428", "0.432", "0.522"),
}
LABELS = {"sac+ae": "SAC+AE", "slac": "SLAC", "curl": "CURL", "planet": "PlaNet", "drq": "DrQ", "mlr": "MLR",
          "dreamer": "Dreamer", "playvirtual": "PlayVirtual", "baseline": "Baseline"}  # fmt: skip


def make_run(task, seed, scores, suite="atari", method="mlr", preset="cpu", total=0, **changes):
    """scores: mean score at the end, or environment steps -> mean score; two episodes around it."""
    scores = scores if isinstance(scores, dict) else {200: scores}
    values = {
        "suite": suite, "task": task, "method": method, "preset": preset, "fidelity": "released", "seed": seed,
        "config_hash": f"{task}{seed}{method}", "version": "0.1.0+abc", "hardware": "a CPU",
        "path": ROOT / "results" / "runs" / f"{task}_{method}_{seed}.csv",
        "evaluations": {steps: Evaluation((score - 1, score + 1), steps // 2) for steps, score in scores.items()},
        "total_agent_steps": total,
    }  # fmt: skip
    return Run(**{**values, **changes})


def column(table, name, index=0):
    """Texts of the column whose header is `name`, by the text in column `index`."""
    return {row[index]: row[table.header.index(name)] for row in table.rows}


def read_csv(table):
    return list(csv.DictReader(io.StringIO(table.csv())))


def test_all_published_columns_of_table_1():
    table = suite_table(ATARI, [])
    assert table.header == ["game", *COLUMNS]
    assert [row[0] for row in table.rows[:26]] == list(ATARI.tasks)
    scores, std = ({row["game"]: row for row in read_table(name)} for name in ("atari100k", "atari100k_std"))
    for label, expected in COLUMNS.items():
        texts, name = column(table, label), label.removesuffix(", published").lower()
        for game in scores:
            deviation = f" ± {std[game][name]}" if name in std[game] else ""
            assert texts[game] == scores[game][name] + deviation
        rows = ("mean", "median", "IQM over runs × games", "optimality gap over runs × games")
        assert tuple(texts[row] for row in rows) == expected
    assert column(table, "MLR, published")["seeds"] == "3" and column(table, "SPR, published")["seeds"] == "100"


@pytest.mark.parametrize("label", COLUMNS)
def test_rows_of_game_means(label):
    """Worked out anew: the middle 14 of 26 games, and what is short of a human."""
    name, rows = label.removesuffix(", published").lower(), read_table("atari100k")
    normalised = sorted(
        (float(row[name]) - float(row["random"])) / (float(row["human"]) - float(row["random"])) for row in rows
    )
    texts = column(suite_table(ATARI, []), label)
    assert float(texts["IQM of game means"]) == pytest.approx(sum(normalised[6:20]) / 14, abs=5.1e-4)
    gap = sum(max(0.0, 1 - score) for score in normalised) / 26
    assert float(texts["optimality gap of game means"]) == pytest.approx(gap, abs=5.1e-4)
    if name == "mlr":
        assert texts["IQM of game means"] == "0.435" != texts["IQM over runs × games"]


def test_all_published_columns_of_table_2():
    table = suite_table(DMCONTROL, [])
    assert len(table.header) == 2 + 9
    for steps, budget in (("100,000", "100k"), ("500,000", "500k")):
        part = Table("", "", table.header, [row for row in table.rows if row[0] == steps], [])
        for row in read_table("dmcontrol"):
            if row["budget"] == budget:
                cell = column(part, f"{LABELS[row['method']]}, published", 1)[f"{row['domain']}_{row['task']}"]
                assert cell == (f"{row['mean']} ± {row['std']}" if row["mean"] else "–")
        for row in read_table("dmcontrol_aggregate"):
            if row["budget"] == budget:
                cell = column(part, f"{LABELS[row['method']]}, published", 1)[row["metric"]]
                assert cell == row["value"] + (" (4 of 6 tasks)" if row["method"] == "slac" else "")
        mlr = column(part, "MLR, published", 1)
        expected = {"100k": ("772.8", "836.0"), "500k": ("896.5", "948.0")}
        assert (mlr["mean"], mlr["median"], mlr["seeds"]) == (*expected[budget], "10")


def test_published_means_are_labelled():
    for table in (suite_table(ATARI, []), suite_table(DMCONTROL, []), sources_table(SUITES)):
        assert any("means only" in note for note in table.notes)
    sources = column(sources_table(SUITES), "source", 1)
    assert all(sources.values())
    assert len(sources_table(SUITES).rows) == sum(bool(row["source"]) for row in read_table("methods"))


def full_atari(seeds, **changes):
    return [
        make_run(game, seed, 100.0 * i + 10 * seed, preset="full", **changes)
        for i, game in enumerate(ATARI.tasks)
        for seed in seeds
    ]


def test_a_complete_column_of_ours():
    runs = full_atari([1, 2, 4])
    table = suite_table(ATARI, runs, 50)
    ours = column(table, "ours: MLR")
    scores = [10.0, 20.0, 40.0]
    assert ours["alien"] == f"{mean(scores):.1f} ± {stdev(scores):.1f}" == "23.3 ± 15.3"
    assert ours["games"] == "26" and ours["seeds"] == "3"
    constants = {row["game"]: (float(row["random"]), float(row["human"])) for row in read_table("atari100k")}
    by_game: dict[str, list[float]] = {}
    for run in runs:
        random, human = constants[run.task]
        by_game.setdefault(run.task, []).append((run.final - random) / (human - random))
    means = sorted(mean(runs) for runs in by_game.values())
    everything = sorted(score for runs in by_game.values() for score in runs)
    for row, value in {
        "mean": mean(means),
        "median": median(means),
        "IQM over runs × games": mean(everything[19:-19]),
        "IQM of game means": mean(means[6:-6]),
        "optimality gap over runs × games": mean(max(0.0, 1 - score) for score in everything),
        "optimality gap of game means": mean(max(0.0, 1 - score) for score in means),
    }.items():
        assert float(ours[row].split()[0]) == pytest.approx(value, abs=5.1e-4), row
    assert ours["IQM over runs × games"].split()[0] != ours["IQM of game means"]
    point, low, high = aggregate(by_game, 50)["iqm"]
    assert ours["IQM over runs × games"] == f"{point:.3f} [{low:.3f}, {high:.3f}]"
    assert any("percentiles of 50 resamples" in note for note in table.notes)
    assert "MLR: after 200 environment steps, 2 episodes a run, seeds 1, 2, 4." in table.notes
    assert not any("no result" in note or "smaller" in note for note in table.notes)


def test_incomplete_results_say_so_in_the_cell_and_below():
    runs = [make_run("pong", 1, 3.0), make_run("pong", 2, 5.0), make_run("boxing", 1, 7.0)]
    runs += [make_run("alien", 1, {100: 9.0}, total=100)]
    table = suite_table(ATARI, runs, 50)
    ours = column(table, "ours: MLR, preset cpu")
    assert ours["pong"] == "4.0 ± 1.4" and ours["boxing"] == "7.0 (1 of 2 seeds)" and ours["alien"] == "–"
    for row in ("mean", "median", "IQM over runs × games", "IQM of game means"):
        assert ours[row].endswith(" (2 of 26 games, seeds missing)"), row
    assert ours["games"] == "2 of 26" and ours["seeds"] == "1 to 2"
    notes = "\n".join(table.notes)
    for sentence in (
        "24 of 26 games have no result",
        "boxing has 1 of 2 seeds (not 2)",
        "not counted, last evaluation after 50 of 100 agent steps: alien with seed 1",
        "intervals are too narrow, because there is one run of boxing",
        "smaller than the paper's setting",
    ):
        assert f"MLR, preset cpu: {sentence}" in notes


def test_presets_and_fidelities_have_columns_of_their_own():
    kinds = itertools.product(("cpu", "full"), ("released", "paper"), ("none", "mlr"))
    runs = [
        make_run("pong", 1, 3.0, preset=preset, fidelity=fidelity, method=method) for preset, fidelity, method in kinds
    ]
    ours = [name for name in suite_table(ATARI, runs, 10).header if name.startswith("ours")]
    assert ours == [
        "ours: MLR", "ours: Baseline", "ours: MLR, fidelity paper", "ours: Baseline, fidelity paper",
        "ours: MLR, preset cpu", "ours: Baseline, preset cpu",
        "ours: MLR, preset cpu, fidelity paper", "ours: Baseline, preset cpu, fidelity paper",
    ]  # fmt: skip


def test_single_runs_have_no_interval_and_say_so():
    table = suite_table(ATARI, [make_run("pong", 1, 3.0)], 10)
    ours = column(table, "ours: MLR, preset cpu")
    assert ours["pong"] == "3.0" and "[" not in ours["mean"]
    assert any("neither deviation nor interval" in note for note in table.notes)
    assert not any("resamples" in note for note in table.notes)


def test_several_versions_are_named():
    runs = [make_run("pong", 1, 3.0), make_run("pong", 2, 3.0, version="0.2.0")]
    notes = suite_table(ATARI, runs, 10).notes
    assert any("several versions of the code, 0.1.0+abc or 0.2.0" in note for note in notes)


def test_our_columns_of_table_2():
    runs = [
        make_run(task, seed, {100_000: 10.0 * seed + i, 500_000: 900.0 + 10 * seed + i}, "dmcontrol", preset="full")
        for i, task in enumerate(DMCONTROL.tasks)
        for seed in (1, 2)
    ]
    runs[-1] = make_run("ball_in_cup_catch", 2, {100_000: 25.0}, "dmcontrol", preset="full", total=250_000)
    table = suite_table(DMCONTROL, runs, 50)
    first, second = (Table("", "", table.header, [row for row in table.rows if row[0] == steps], [])
                     for steps in ("100,000", "500,000"))  # fmt: skip
    early, late = column(first, "ours: MLR", 1), column(second, "ours: MLR", 1)
    assert early["finger_spin"] == "15.0 ± 7.1" and late["finger_spin"] == "915.0 ± 7.1"
    assert early["mean"].startswith("17.5 [") and early["median"].startswith("17.5 [") and early["mean"].endswith("]")
    assert late["ball_in_cup_catch"] == "915.0 (1 of 2 seeds)" and late["mean"].endswith("(seeds missing)")
    assert (early["seeds"], late["seeds"]) == ("2", "1 to 2")
    assert any("not counted" in note and "ball_in_cup_catch with seed 2" in note for note in table.notes)


def test_a_budget_without_runs_is_empty():
    table = suite_table(DMCONTROL, [make_run("finger_spin", 1, {100_000: 5.0}, "dmcontrol", total=250_000)], 10)
    assert [row[-1] for row in table.rows if row[0] == "500,000"] == ["–"] * 10
    assert [row[-1] for row in table.rows if row[1] == "finger_spin"] == ["5.0", "–"]


def test_a_game_without_published_scores_has_a_row_and_no_part_in_the_aggregates():
    known = [make_run("pong", 1, 3.0), make_run("pong", 2, 5.0), make_run("boxing", 1, 7.0)]
    further = [make_run("tennis", seed, -20.0 + seed) for seed in (1, 2)]
    without, table = suite_table(ATARI, known, 50), suite_table(ATARI, [*known, *further], 50)
    (row,) = (row for row in table.rows if row[0] == "tennis")
    assert table.rows.index(row) == 26 and row[1:] == ["–"] * 10 + ["-18.5 ± 0.7"]
    assert [row for row in table.rows if row[0] != "tennis"] == without.rows
    sentence = "MLR, preset cpu: tennis has no published scores, so no aggregate counts it."
    assert sentence in table.notes and sentence not in without.notes
    alone = column(suite_table(ATARI, further, 50), "ours: MLR, preset cpu")
    assert (alone["tennis"], alone["mean"], alone["games"]) == ("-18.5 ± 0.7", "–", "0 of 26")
    aggregates = aggregates_table(families([*known, *further], SUITES), 50)
    assert aggregates.rows == aggregates_table(families(known, SUITES), 50).rows and sentence in aggregates.notes
    others = [make_run(task, seed, 1.0, method="none") for task in ("pong", "tennis") for seed in (1, 2)]
    (differences,) = difference_tables(families([*known, *further, *others], SUITES), 50)
    assert [row[1] for row in differences.rows] == ["pong", "mean of 1"]
    assert "Baseline, MLR, preset cpu: tennis has no published scores, so no aggregate counts it." in differences.notes


def test_a_task_of_another_length_has_rows_of_its_own():
    runs = [make_run("finger_spin", 1, {100_000: 5.0, 500_000: 9.0}, "dmcontrol")]
    runs += [make_run("hopper_hop", 1, {50_000: 1.0, 300_000: 2.0}, "dmcontrol", preset="full")]
    runs += [make_run("hopper_hop", 2, {100_000: 7.0}, "dmcontrol", preset="full", total=200_000)]
    table = suite_table(DMCONTROL, runs, 10)
    rows = {(row[0], row[1]): row[-2:] for row in table.rows}
    assert table.header[-2:] == ["ours: MLR", "ours: MLR, preset cpu"]
    assert rows["100,000", "finger_spin"] == ["–", "5.0"]
    assert rows["100,000", "hopper_hop"] == ["7.0 (1 of 2 seeds)", "–"]
    assert [name for steps, name in rows if steps == "300,000"] == ["hopper_hop", "tasks", "seeds"]
    assert rows["300,000", "hopper_hop"] == ["2.0 (1 of 2 seeds)", "–"] and ("500,000", "hopper_hop") not in rows
    assert [row[:5] for row in aggregates_table(families(runs, SUITES), 10).rows] == [
        ["dmcontrol", "MLR, preset cpu", steps, "1 of 6", "1"] for steps in ("100,000", "500,000")
    ]
    (further,) = further_tables(runs, SUITES)
    assert further.rows == [["dmcontrol", "hopper_hop", "MLR", "300,000", "1", "2.0 (1 of 2 seeds)"]]
    assert further_tables(runs[:1], SUITES) == []


def test_a_longer_game_without_published_scores_hides_no_other():
    runs = [make_run("pong", 1, 3.0), make_run("tennis", 1, {500: -9.0})]
    table = suite_table(ATARI, runs, 10)
    ours = column(table, "ours: MLR, preset cpu")
    assert (ours["pong"], ours["tennis"], ours["games"]) == ("3.0", "-9.0", "1 of 26")
    after = "MLR, preset cpu: after 200 environment steps, tennis after 500, 2 episodes a run, seeds 1."
    assert after in table.notes


def test_a_suite_without_published_scores_has_a_table_of_raw_scores():
    seeds = [(seed, method) for seed in (1, 2) for method in ("mlr", "x")]
    runs = [make_run("CartPole-v1", seed, 20.0 * seed, "gymnasium", method=method) for seed, method in seeds]
    suites = every_suite(runs, SUITES)
    assert list(suites) == ["atari", "dmcontrol", "metaworld", "gymnasium"] and every_suite([], SUITES) == SUITES
    table = suite_table(suites["gymnasium"], runs, 10)
    assert (table.name, table.title) == ("gymnasium", "Gymnasium: scores")
    assert table.header == ["task", "ours: MLR, preset cpu", "ours: x, preset cpu"]
    assert table.rows == [["CartPole-v1", *["30.0 ± 14.1"] * 2], ["tasks", "1", "1"], ["seeds", "2", "2"]]
    assert not any("published means" in note or "smaller" in note for note in table.notes)
    assert (
        aggregates_table(families(runs, suites), 10).rows == [] and difference_tables(families(runs, suites), 10) == []
    )
    assert sources_table(suites).rows == sources_table(SUITES).rows


def test_aggregates_table():
    runs = [make_run("pong", seed, 3.0 * seed) for seed in (1, 2)]
    runs += [make_run("finger_spin", seed, {100_000: 100.0 * seed}, "dmcontrol", method="none") for seed in (1, 2, 3)]
    atari, dmcontrol = aggregates_table(families(runs, SUITES), 50).rows
    assert atari[:5] == ["atari", "MLR, preset cpu", "200", "1 of 26", "2"]
    assert dmcontrol[:5] == ["dmcontrol", "Baseline, preset cpu", "100,000", "1 of 6", "3"]
    mean_column = 5 + ["IQM", "median", "mean", "optimality gap"].index("mean")
    assert re.fullmatch(r"0\.200 \[0\.1\d\d, 0\.[23]\d\d\] \(1 of 6 tasks\)", dmcontrol[mean_column])


def test_ablation_is_paired():
    mlr = [
        make_run("finger_spin", seed, {500_000: score}, "dmcontrol") for seed, score in ((1, 500.0), (2, 700.0), (3, 0))
    ]
    mlr += [make_run("walker_walk", 1, {500_000: 100.0}, "dmcontrol")]
    none = [
        make_run("finger_spin", seed, {500_000: score}, "dmcontrol", method="none")
        for seed, score in ((2, 650.0), (1, 400))
    ]
    none += [make_run("reacher_easy", 1, {500_000: 100.0}, "dmcontrol", method="none")]
    other = [make_run("finger_spin", 1, {500_000: 1.0}, "dmcontrol", method="none", preset="full")]
    (table,) = difference_tables(families([*mlr, *none, *other], SUITES), 50)
    finger, overall = table.rows
    assert finger == [
        "MLR, preset cpu",
        "finger_spin",
        "2",
        "525.0",
        "600.0",
        "0.075 [0.050, 0.100] (2 of 3 seeds)",
    ]
    assert overall[:3] == ["MLR, preset cpu", "mean of 1", "2"]
    assert overall[-1] == "0.075 [0.050, 0.100] (1 of 6 tasks, seeds missing)"
    assert "MLR, preset cpu: no seed in common with Baseline, preset cpu on reacher_easy, walker_walk." in table.notes
    assert table.title == "Differences from Baseline, preset cpu on DMControl after 500,000 environment steps"
    assert re.fullmatch(r"\w+", table.name)
    assert difference_tables(families([*mlr, *other], SUITES), 50) == []


def test_every_pair_of_methods_with_a_reference_has_one_difference():
    methods = ("spr", "mlr", "none", "curl")
    runs = [make_run("finger_spin", 1, {100_000: 1.0}, "dmcontrol", method=method) for method in methods]
    tables = difference_tables(families(runs, SUITES), 50)
    assert [table.title.split(",")[0] for table in tables] == ["Differences from Baseline", "Differences from MLR"]
    settings = [{row[0].split(",")[0] for row in table.rows} for table in tables]
    assert settings == [{"MLR", "SPR", "CURL"}, {"SPR", "CURL"}]
    assert len({table.name for table in tables}) == 2


def test_a_setting_is_compared_with_what_differs_least():
    """Both methods at half precision are a pair; the arms are compared with the base, and with the other method's."""
    bf16, ratio = {"precision": ("tf32", "bf16")}, {"mlr.mask.ratio": (0.5, 0.3)}
    kinds = [("none", {}), ("none", bf16), ("mlr", bf16), ("mlr", {}), ("mlr", ratio)]
    runs = [
        make_run("finger_spin", 1, 100.0 * i, "dmcontrol", kind[0], changes=kind[1]) for i, kind in enumerate(kinds)
    ]
    found = {
        table.title.split(" on ")[0]: {row[0] for row in table.rows}
        for table in difference_tables(families(runs, SUITES), 9)
    }
    end = ", preset cpu"
    assert found == {
        f"Differences from Baseline{end}": {
            "MLR" + end,
            f"MLR (mask ratio 0.3){end}",
            f"Baseline (precision bf16){end}",
        },
        f"Differences from Baseline (precision bf16){end}": {f"MLR (precision bf16){end}"},
        f"Differences from MLR{end}": {f"MLR (precision bf16){end}", f"MLR (mask ratio 0.3){end}"},
    }


def test_the_shipped_pairs_under_names_of_their_own_have_their_differences():
    """Scores are added up here from the rows of the files."""
    folder = ROOT / "results" / "runs" / "cpu" / "cartpole_swingup"
    tables = difference_tables(families(read_runs([folder], SUITES, identify), SUITES), 9)
    pairs = {"MLR, preset cpu": "medium-fp32_seed_2", "MLR (precision bf16), preset cpu": "medium_seed_1"}
    for table, (label, run) in zip(tables, pairs.items(), strict=True):
        means = []
        for name in (f"mlr-{run}", f"baseline-{run}"):
            rows = list(csv.DictReader((folder / name / "evaluations.csv").open(newline="")))
            means.append(mean(float(row["score"]) for row in rows if row["env_steps"] == "100000"))
        assert [row[:3] for row in table.rows] == [[label, task, "1"] for task in ("cartpole_swingup", "mean of 1")]
        assert table.rows[0][-1].columns[""] == pytest.approx((means[0] - means[1]) / 1000)


def test_a_suite_has_a_reference_of_its_own():
    runs = [make_run("reach", 1, {}, "metaworld", method, evaluations={200: Evaluation((score,), 100)})
            for method, score in (("mwm", 0.9), ("pixels", 0.4))]  # fmt: skip
    tables = difference_tables(families(runs, SUITES), 9)
    assert [table.title for table in tables] == [
        "Differences from pixel baseline, preset cpu on Meta-world after 200 environment steps"
    ]
    assert tables[0].rows[0][0] == "MWM, preset cpu" and tables[0].rows[0][-1].columns[""] == pytest.approx(0.5)


def test_provenance_names_the_file_of_every_run():
    runs = [make_run("pong", 1, {100: 1.0, 200: 3.0}, total=200), make_run("boxing", 2, 5.0, path=Path("/else/b.csv"))]
    runs.append(make_run("alien", 1, {}))
    table = provenance_table(runs, every_suite(runs, SUITES))
    rows = [dict(zip(table.header, row, strict=True)) for row in table.rows]
    assert rows[0]["file"] == "results/runs/pong_mlr_1.csv" and rows[1]["file"] == "/else/b.csv"
    assert rows[0]["score"] == "3.0 (not finished)" and rows[1]["score"] == "5.0"
    assert rows[2]["score"] == "not evaluated yet"
    assert rows[0]["environment steps"] == "200" and rows[0]["agent steps"] == "100" and rows[0]["episodes"] == "2"
    assert (rows[1]["seed"], rows[1]["configuration"], rows[1]["hardware"]) == ("2", "boxing2mlr", "a CPU")


def test_csv_holds_the_numbers_behind_the_text():
    runs = [make_run("pong", 1, 1 / 3), make_run("pong", 2, 2 / 3), make_run("boxing", 1, 7.0)]
    rows = {row["game"]: row for row in read_csv(suite_table(ATARI, runs, 50))}
    name = "ours: MLR, preset cpu"
    assert float(rows["pong"][name]) == pytest.approx(0.5) and rows["pong"][f"{name} seeds"] == "2"
    assert float(rows["pong"][f"{name} std"]) == pytest.approx(stdev([1 / 3, 2 / 3]))
    assert rows["boxing"][f"{name} note"] == "1 of 2 seeds" and rows["boxing"][f"{name} std"] == ""
    assert rows["alien"][name] == "" and rows["alien"]["MLR, published"] == "990.1"
    assert rows["alien"]["MLR, published std"] == "79.2"
    assert float(rows["mean"][f"{name} low"]) < float(rows["mean"][name]) < float(rows["mean"][f"{name} high"])
    assert rows["mean"][f"{name} note"] == "2 of 26 games, seeds missing"


AWKWARD = Table(
    "awkward",
    "50 % of A_B & C",
    ["name", "a|b"],
    [["x_1 ± 2 #", Number("-1.5 [-2.0, -1.0]", -1.5)]],
    ["In {braces}~^\\."],
)


def test_markdown():
    assert AWKWARD.markdown() == (
        "### 50 % of A_B & C\n\n| name | a\\|b |\n|---|---:|\n| x_1 ± 2 # | -1.5 [-2.0, -1.0] |\n\n- In {braces}~^\\.\n"
    )
    for table in (suite_table(ATARI, []), suite_table(DMCONTROL, [])):
        lines = [line for line in table.markdown().splitlines() if line.startswith("|")]
        assert len(lines) == 2 + len(table.rows) and {line.count("|") for line in lines} == {len(table.header) + 1}


def test_latex():
    text = AWKWARD.latex()
    assert r"\caption{50 \% of A\_B \& C}" in text and r"\label{tab:awkward}" in text
    assert r"x\_1 $\pm$ 2 \# & $-$1.5 {[}$-$2.0, $-$1.0{]} \\" in text
    assert r"In \{braces\}\textasciitilde{}\textasciicircum{}\textbackslash{}." in text
    table = suite_table(ATARI, full_atari([1, 2]), 10)
    text = table.latex()
    assert text.isascii(), "a character that pdflatex may not know"
    assert text.count("{") == text.count("}") and text.count(r"\begin{tabular}") == text.count(r"\end{tabular}")
    body = text.split(r"\hline")[2].strip().splitlines()
    assert len(body) == len(table.rows)
    assert all(len(re.findall(r"(?<!\\)&", line)) == len(table.header) - 1 for line in body)
    assert r"\begin{tabular}{l" + "r" * (len(table.header) - 1) + "}" in text


def test_a_cell_of_a_wide_latex_table_has_lines():
    table = Table("wide", "", list("abcdefghi"), [[Number("0.5 [-0.1, 1.0] (2 of 6 tasks)"), *"bcdefghi"]], [])
    expected = r"\begin{tabular}[t]{@{}r@{}}0.5 \\ {[}$-$0.1, 1.0{]} \\ (2 of 6 tasks)\end{tabular} & b & c"
    assert expected in table.latex()


def test_a_long_latex_table_goes_on():
    text = Table("long", "T", ["name"], [[f"row {i}"] for i in range(100)], ["A note."]).latex()
    assert text.count(r"\begin{table*}") == 3 and text.count("T, continued}") == 2 and text.count("A note.") == 1
    assert re.findall(r"row (\d+)", text) == [str(i) for i in range(100)]
    assert len(set(re.findall(r"\\label\{(.*?)\}", text))) == 3


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
def test_latex_is_accepted(tmp_path):
    runs = [*full_atari([1, 2, 3]), make_run("pong", 1, 3.0), make_run("pong", 1, 2.0, method="none")]
    tables = [suite_table(suite, runs, 10) for suite in SUITES.values()]
    tables += [aggregates_table(families(runs, SUITES), 10), *difference_tables(families(runs, SUITES), 10)]
    tables += [provenance_table(runs[:2], SUITES), sources_table(SUITES), AWKWARD]
    lines = [r"\documentclass{article}\usepackage{graphicx}\begin{document}", *(table.latex() for table in tables)]
    (tmp_path / "tables.tex").write_text("\n".join([*lines, r"\end{document}"]))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "tables.tex"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=HANG, check=False)
    assert result.returncode == 0, result.stdout[-2000:]
    assert "Overfull" not in result.stdout


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (471.25, 1, "471.3"),
        (0.0625, 3, "0.063"),
        (-0.0004, 3, "0.000"),
        (-1.25, 1, "-1.3"),
        (907.0, 0, "907"),
        (2, 1, "2.0"),
    ],
)
def test_rounding(value, digits, text):
    assert rounded(value, digits) == text
