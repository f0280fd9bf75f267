import gymnasium
import numpy as np
import pytest

from harness.environments import LocalEnvironments
from harness.evaluation import evaluation_steps, play_episodes
from harness.stop import StopRequested


class Countdown(gymnasium.Env):
    """Ends after `length` steps; the reward is the action."""

    def __init__(self, length):
        self.left = self.length = length
        self.closed = False

    def reset(self, *, seed=None, options=None):
        return np.full(2, self.length, np.uint8), {}

    def step(self, action):
        assert self.left > 0, "stepped after its end"
        self.left -= 1
        return np.full(2, self.left, np.uint8), float(action), self.left == 0, False, {}

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
