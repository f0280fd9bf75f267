"""Methods side by side, and the shipped intervals against what the shipped means say."""

import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.config import ConfigError
from harness.report.methods import MethodRuns, improvement_table, methods_tables, read_scores
from harness.report.published import read_table, recorded
from harness.report.table import Table, is_own
from recipes import SUITE_SCORES as SUITES

ATARI, DMCONTROL = SUITES["atari"], SUITES["dmcontrol"]
LEARNS = {game: [ATARI.means["100k"][game]["spr"] + step for step in (-1.0, 0.0, 1.0)] for game in ATARI.tasks}


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def table(ours=(), theirs=(), suite="atari", index=0):
    return methods_tables(ours, theirs, SUITES, repeats=20)[suite][index]


def test_a_list_of_scores_is_read(tmp_path):
    games = write(tmp_path / "a.csv", "method,game,run,score\nnew,boxing,0,10\nnew,boxing,1,12.5\nold,pong,0,-3\n")
    tasks = write(tmp_path / "b.csv", "method,task,env_steps,run,score,x\nnew,finger_spin,500000,0,900,1\n")
    new, old, continuous = read_scores([games, tasks], SUITES)
    assert (new.suite, new.budget, new.method, new.raw) == (ATARI, "100k", "new", {"boxing": [10.0, 12.5]})
    assert (old.method, old.raw) == ("old", {"pong": [-3.0]})
    assert (continuous.suite, continuous.budget, continuous.raw) == (DMCONTROL, "500k", {"finger_spin": [900.0]})
    assert continuous.normalised() == {"finger_spin": [0.9]}


@pytest.mark.parametrize(
    "text, message",
    [
        ("method,run,score\na,0,1\n", "lacks the columns task"),
        ("method,task,run,score\n", "has no rows"),
        ("method,task,run,score\na,boxin,0,1\n", "line 2: 'boxin' has no published scores; did you mean boxing?"),
        ("method,task,run,score\na,boxing,0,x\n", "line 2: score is 'x', which is no number"),
        ("method,task,run,score\na,boxing,0,nan\n", "score is 'nan'"),
        ("method,task,run,score\na,boxing,0,1\na,boxing,0,2\n", "line 3: run 0 of a on boxing is there twice"),
        ("method,task,run,score\na,boxing,0\n", "line 2: the row and the header differ in length"),
        ("method,task,run,score\na,finger_spin,0,1\n", "published scores of DMControl are at 100000 or 500000"),
        ("method,task,run,score,env_steps\na,finger_spin,0,1,250000\n", "env_steps is '250000'"),
    ],
)
def test_anything_else_is_one_line(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")) as raised:
        read_scores([write(tmp_path / "a.csv", text)], SUITES)
    assert "\n" not in str(raised.value)


def test_only_methods_of_the_same_budget_and_protocol_are_ranked():
    shown, known = table(), {method.label: method for method in recorded() if method.suite == "atari"}
    ranked = [row for row in shown.rows if row[0] != "apart"]
    assert len(ranked) >= 20 and shown.rows[: len(ranked)] == ranked
    assert [int(row[0]) for row in ranked] == list(range(1, len(ranked) + 1))
    iqm = shown.header.index("IQM")
    points = [row[iqm].columns[""] for row in ranked]
    assert points == sorted(points, reverse=True)
    for row in shown.rows:
        if row[1] in known:
            method = known[row[1]]
            assert (row[0] != "apart") == (method.comparable == "yes")
            assert row[0] != "apart" or row[-1] == method.differs
        else:
            assert row[1] in ("MLR", "Baseline") and row[-1] == "single runs are not published"


def test_an_interval_of_few_runs_says_so():
    cells = {row[1]: row[2] for row in table().rows}
    assert cells["DIAMOND"] == "5 (11 % too narrow)"
    assert {row[1]: row[2] for row in table(suite="dmcontrol").rows}["TD-MPC2 from pixels"] == "3 (18 % too narrow)"
    assert not any("narrow" in cell for label, cell in cells.items() if "rliable study" in label)


def test_scores_of_ours_and_yours_come_first_and_are_ranked_with_all_tasks():
    some = MethodRuns(ATARI, "100k", "few", {"boxing": [10.0, 14.0], "pong": [-20.0, -10.0]})
    shown = table([some], [MethodRuns(ATARI, "100k", "mine", LEARNS)])
    first, second = shown.rows[:2]
    assert [is_own(row) for row in shown.rows[:3]] == [True, True, False]
    assert (first[0], first[1]) == ("apart", "ours: few (2 of 26 games)")
    assert shown.header[3:5] == ["boxing", "pong"] and first[3:5] == ["12.0 ± 2.8", "-15.0 ± 7.1"]
    spr = next(method for method in recorded() if method.method == "spr")
    iqm, mean = (shown.header.index(name) for name in ("IQM", "mean"))
    ranked = [row[iqm].columns[""] for row in shown.rows[2:] if row[0] != "apart"]
    assert second[1] == "yours: mine" and int(second[0]) == 1 + sum(np.array(ranked) > second[iqm].columns[""])
    assert second[mean].columns[""] == pytest.approx(spr.intervals["mean"][0], abs=0.002)
    lines = shown.terminal().splitlines()
    assert len(lines) == len(shown.rows) + 2 and max(map(len, lines)) < 160


def test_probability_of_improvement_over_every_other_method_with_runs():
    worse = MethodRuns(ATARI, "100k", "worse", {"boxing": [0.0, 12.0], "alien": [1.0]})
    elsewhere = MethodRuns(ATARI, "100k", "elsewhere", {"pong": [0.0]})
    mine = MethodRuns(ATARI, "100k", "mine", {"boxing": [10.0, 14.0]})
    (shown,) = improvement_table([worse, elsewhere], [mine], 20)
    (row,) = shown.rows
    assert row[:3] == ["Atari", "worse", "1"] and row[4].columns[""] == 0.75  # 3 of 4 pairs
    assert improvement_table([worse], [], 20) == []
    later = [MethodRuns(DMCONTROL, budget, "mine", {"finger_spin": [1.0]}) for budget in ("100k", "500k")]
    others = [replace(runs, method="other") for runs in later]
    (shown,) = improvement_table([], later + others, 20)
    assert [row[:2] for row in shown.rows] == [[f"DMControl {budget}", "other"] for budget in ("100k", "500k")]
    empty = Table("a", "b", ["x", "y"], [], [])
    assert empty.csv() == "x,y\n"


def test_shipped_intervals_are_those_of_the_shipped_means():
    """Median and mean follow from the tasks' means; the rest lies around its point."""
    for method in recorded():
        suite = SUITES[method.suite]
        means = [suite.normalised(task, mean) for task, (_, mean, _) in method.spreads.items()]
        assert method.intervals["mean"][0] == pytest.approx(statistics.mean(means), abs=1e-4)
        assert method.intervals["median"][0] == pytest.approx(statistics.median(means), abs=1e-4)
        for point, low, high in method.intervals.values():
            assert low <= point <= high
        assert method.comparable in ("yes", "budget", "no") and (method.comparable == "yes" or method.differs)
    assert all(row["source"] and row["licence"] for row in read_table("intervals"))


def test_means_of_single_runs_are_the_printed_means():
    known = {method.method: method for method in recorded() if method.suite == "atari"}
    for name in ("der", "otr", "curl", "drq", "spr", "playvirtual"):
        for game, row in ATARI.means["100k"].items():
            assert known[name].spreads[game][1] == pytest.approx(row[name], abs=0.051)
        for metric, printed in ATARI.aggregates.items():
            assert known[name].intervals[metric][0] == pytest.approx(printed[name], abs=0.00051)


def test_every_spread_belongs_to_a_method():
    names = {(row["suite"], row["budget"], row["method"]) for row in read_table("spreads")}
    assert names == {(method.suite, method.budget, method.method) for method in recorded()}
    assert np.mean([len(method.spreads) == 26 for method in recorded() if method.suite == "atari"]) == 1
