from statistics import mean, median

import pytest

from atari.games import games
from atari.scores import SCORES, constants, human_normalised, references
from harness.report.published import read_table


@pytest.mark.parametrize(
    ("method", "expected_mean", "expected_median"),
    [("mlr", 0.679, 0.428), ("baseline", 0.498, 0.314), ("human", 1.0, 1.0), ("random", 0.0, 0.0)],
)
def test_human_normalised_scores_of_the_published_columns(method, expected_mean, expected_median):
    scores = [human_normalised(game, row[method]) for game, row in SCORES.means["100k"].items()]
    assert len(scores) == len(SCORES.tasks) == 26
    assert mean(scores) == pytest.approx(expected_mean, abs=5e-4)
    assert median(scores) == pytest.approx(expected_median, abs=5e-4)


def test_players_of_the_26_games_score_the_same_in_both_files():
    """One file is the MLR paper's, the other an older paper's table of 57 games."""
    for row in read_table("atari100k"):
        assert constants()[row["game"]] == (float(row["random"]), float(row["human"])), row["game"]


def test_the_57_games_can_be_played_and_a_human_beats_a_random_player():
    rows = read_table("atari_human_random")
    assert len(constants()) == len(rows) == 57 and constants().keys() <= set(games())
    assert all(random < human for random, human in constants().values()) and all(row["source"] for row in rows)


def test_a_game_without_both_scores_has_no_scale():
    assert human_normalised("pong", 14.6) == 1 and human_normalised("pong", -20.7) == 0
    assert human_normalised("tennis", -8.3) == 1 and references("tennis") == {"random policy": -23.8, "human": -8.3}
    assert human_normalised("adventure", 1.0) is None and references("adventure") == {}


def test_published_deviations():
    assert SCORES.deviations["100k"]["pong"] == {"baseline": 11.5, "mlr": 3.1}
