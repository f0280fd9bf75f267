from statistics import mean, median

import pytest

from dmcontrol.scores import BUDGETS, SCORES, normalised
from harness.report.published import read_table


@pytest.mark.parametrize("budget", BUDGETS)
def test_means_agree_with_the_printed_aggregate(budget):
    rows = SCORES.means[budget].values()
    assert len(rows) == len(SCORES.tasks) == 6
    printed = [row for row in read_table("dmcontrol_aggregate") if row["budget"] == budget]
    assert len(printed) == 2 * len(SCORES.methods)
    for row in printed:
        scores = [scores[row["method"]] for scores in rows if row["method"] in scores]
        statistic = {"mean": mean, "median": median}[row["metric"]]
        assert statistic(scores) == pytest.approx(float(row["value"]), abs=0.06), row


def test_a_missing_score_has_no_entry():
    assert "slac" not in SCORES.means["100k"]["cartpole_swingup"]
    assert SCORES.means["100k"]["finger_spin"]["slac"] == 693.0


def test_published_deviations():
    assert SCORES.deviations["500k"]["walker_walk"]["drq"] == 45.0


def test_scale():
    assert normalised("finger_spin", 973.0) == SCORES.normalised("hopper_hop", 973.0) == 0.973


def test_means_of_what_an_auxiliary_trains():
    assert SCORES.means_of("mlr", "finger_spin") == {"100k": 907.0, "500k": 973.0}
    assert SCORES.means_of("none", "finger_spin") == {"100k": 853.0, "500k": 944.0}
    assert SCORES.means_of("mlr", "hopper_hop") == SCORES.means_of("unheard-of", "finger_spin") == {}
