import gymnasium
import numpy as np
import pytest

from harness.config import ConfigError
from harness.environments import LocalEnvironments
from harness.evaluation import Episode, episode_rows, evaluation_steps, play_episodes
from harness.stop import StopRequested


class Countdown(gymnasium.Env):
    """Ends after `length` steps; the reward is the action. Reports `columns` of every step, and the actions."""

    def __init__(self, length, columns=None):
        self.left = self.length = length
        self.columns = columns
        self.closed = False

    def reset(self, *, seed=None, options=None):
        return np.full(2, self.length, np.uint8), {}

    def step(self, action):
        assert self.left > 0, "stepped after its end"
        self.left -= 1
        return np.full(2, self.left, np.uint8), float(action), self.left == 0, False, self.info(action)

    def info(self, action):
        return {} if self.columns is None else {"columns": {**self.columns, "action": action}}

    def render(self):
        return np.zeros((2, 2, 3), np.uint8)


def play(lengths, parallel, player, film=None, watch=lambda finished: None):
    places = np.zeros((parallel, 2), np.uint8)
    with LocalEnvironments([Countdown(length) for length in lengths].__getitem__, places) as environments:
        return play_episodes(player, environments, len(lengths), film, watch)


def test_every_episode_is_played_to_its_end_in_a_batch_of_fixed_size():
    shapes = set()

    def player(batch, first):
        shapes.add((batch.shape, first.shape))
        return batch[:, 0]

    lengths = [3, 1, 5, 2, 4]
    episodes = play(lengths, 2, player)
    assert [episode.agent_steps for episode in episodes] == lengths
    assert [episode.score for episode in episodes] == [sum(range(1, length + 1)) for length in lengths]
    assert shapes == {((2, 2), (2,))}


def test_the_player_is_told_which_places_begin_an_episode():
    told = []

    def player(batch, first):
        told.append(first.tolist())
        return batch[:, 0]

    play([2, 1, 2], 2, player)
    assert told == [[True, True], [False, False], [True, False], [False, False]]


def test_a_row_takes_what_the_episode_s_last_step_reports():
    environments = [Countdown(length, {"success": length == 2}) for length in (2, 3)]
    places = np.zeros((2, 2), np.uint8)
    with LocalEnvironments(environments.__getitem__, places) as local:
        episodes = play_episodes(lambda batch, first: batch[:, 0], local, 2, None, lambda finished: None)
    assert episode_rows(episodes, lambda score: {"half": score / 2}) == [
        {"episode": 0, "score": 3.0, "half": 1.5, "episode_agent_steps": 2, "success": 1.0, "action": 1.0},
        {"episode": 1, "score": 6.0, "half": 3.0, "episode_agent_steps": 3, "success": 0.0, "action": 1.0},
    ]


@pytest.mark.parametrize(
    "reported, message",
    [
        ([{"success": 1.0}, {}], r"holds \[\] at the end of episode 1 and \['success'\]"),
        ([{"score": 1.0}, {"score": 1.0}], r"holds \['score'\], which every row has"),
    ],
)
def test_rows_of_one_file_have_the_same_columns(reported, message):
    with pytest.raises(ConfigError, match=message):
        episode_rows([Episode(columns=columns) for columns in reported], lambda score: {})


def test_it_tells_how_many_episodes_are_over():
    told = []
    play([1, 3, 2], 2, lambda batch, first: batch[:, 0], watch=told.append)
    assert told == [0, 1, 1, 2, 2, 3]


def test_only_the_first_episode_is_filmed():
    frames = []
    play([3, 2, 2], 2, lambda batch, first: batch[:, 0], film=frames.append)
    assert len(frames) == 3


def test_a_stop_request_ends_it():
    def watch(finished):
        raise StopRequested

    with pytest.raises(StopRequested):
        play([3], 1, lambda batch, first: batch[:, 0], watch=watch)


@pytest.mark.parametrize(
    "steps, every, expected",
    [(100, 0, [100]), (100, 40, [0, 40, 80, 100]), (100, 50, [0, 50, 100]), (100, 200, [0, 100])],
)
def test_evaluation_steps(steps, every, expected):
    assert evaluation_steps(steps, every) == expected


def test_a_first_evaluation_later_than_the_start():
    assert evaluation_steps(60, 20, first=10) == [10, 30, 50, 60]
    assert evaluation_steps(60, 0, first=10) == [60]
