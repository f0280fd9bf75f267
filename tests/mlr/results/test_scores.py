from statistics import mean, median

import pytest

from mlr.results.scores import human_normalised, published, read_table


@pytest.mark.parametrize(
    ("method", "expected_mean", "expected_median"),
    [("mlr", 0.679, 0.428), ("baseline", 0.498, 0.314), ("human", 1.0, 1.0), ("random", 0.0, 0.0)],
)
def test_human_normalised_scores_of_the_published_columns(method, expected_mean, expected_median):
    scores = [human_normalised(game, row[method]) for game, row in published("atari").items()]
    assert len(scores) == 26
    assert mean(scores) == pytest.approx(expected_mean, abs=5e-4)
    assert median(scores) == pytest.approx(expected_median, abs=5e-4)


@pytest.mark.parametrize("budget", ["100k", "500k"])
def test_dmcontrol_means_agree_with_the_printed_aggregate(budget):
    rows = [scores for task, scores in published("dmcontrol").items() if task.endswith(budget)]
    assert len(rows) == 6
    printed = [row for row in read_table("dmcontrol_aggregate") if row["benchmark"] == budget]
    for row in printed:
        scores = [scores[row["method"]] for scores in rows if row["method"] in scores]
        statistic = {"mean": mean, "median": median}[row["metric"]]
        assert statistic(scores) == pytest.approx(float(row["value"]), abs=0.06), row


def test_a_missing_score_has_no_entry():
    assert "slac" not in published("dmcontrol")["cartpole_swingup_100k"]
    assert published("dmcontrol")["finger_spin_100k"]["slac"] == 693.0


def test_an_unknown_benchmark_is_refused():
    with pytest.raises(ValueError, match="choose atari or dmcontrol"):
        published("procgen")
