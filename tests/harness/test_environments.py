"""Environments in worker processes behave as in this one. No torch here: workers import this module."""

import os
import signal
import sys
from functools import partial

import gymnasium
import numpy as np
import pytest

from atari.environment import make_environment as make_atari
from dmcontrol.environment import make_environment as make_dmcontrol
from harness.environments import LocalEnvironments, SpreadEnvironments
from harness.errors import NotFinite, WorkerLost
from tests.conftest import make_config, make_dmcontrol_config
from tests.waiting import HANG


class Count(gymnasium.Env):
    """Shows its number and its steps; the reward is the action times the number. It ends after `number` steps.

    Each step reports how many are left.
    """

    def __init__(self, number):
        self.number, self.steps = number, 0

    def reset(self, *, seed=None, options=None):
        return np.array([self.number, 0], np.uint8), {}

    def step(self, action):
        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if action == "hang":
            os.kill(os.getpid(), signal.SIGSTOP)
        if action == "fail":
            raise NotFinite("a reward")
        self.steps += 1
        assert self.steps <= self.number, "stepped after its end"
        observation = np.array([self.number, self.steps], np.uint8)
        info = {"columns": {"left": np.int64(self.number - self.steps)}}
        return observation, float(action) * self.number, self.steps == self.number, False, info


def spread(places, workers, *, film=False, timeout=HANG):
    return SpreadEnvironments(Count, (places, 2), workers, timeout, film)


def walk(environments):
    """What is seen on the way through two groups of episodes, the second of them smaller."""
    with environments:
        environments.start({0: 2, 1: 1, 2: 3})
        seen = [environments.observations.copy()]
        for actions in ({0: 1, 1: 2, 2: 3}, {0: 4, 2: 5}, {2: 6}):
            seen += [environments.step(actions), environments.observations.copy()]
        environments.start({0: 4, 1: 5})
        seen += [environments.step({1: 1}), environments.observations.copy()]
    return seen


@pytest.mark.parametrize("workers, film", [(1, False), (2, True), (3, False)])
def test_they_do_what_local_ones_do(workers, film):
    local = walk(LocalEnvironments(Count, np.zeros((3, 2), np.uint8)))
    for expected, actual in zip(local, walk(spread(3, workers, film=film)), strict=True):
        np.testing.assert_equal(actual, expected)


def test_the_filmed_one_is_here():
    with spread(2, 1, film=True) as environments:
        environments.start({0: 5, 1: 6})
        environments.step({0: 1, 1: 1})
        assert (environments.filmed.number, environments.filmed.steps) == (5, 1)


@pytest.mark.parametrize(
    "action, timeout, error",
    [("kill", HANG, r"environment worker 1 died \(SIGKILL\)"), ("hang", 3, "environment worker . said nothing")],
)
def test_a_lost_worker_is_found_and_the_others_end(action, timeout, error):
    with pytest.raises(WorkerLost, match=error), spread(2, 2, timeout=timeout) as environments:
        environments.start({0: 9, 1: 9})
        environments.step({0: 1, 1: action})


def test_what_an_environment_raises_arrives():
    with pytest.raises(NotFinite, match="a reward"), spread(1, 1) as environments:
        environments.start({0: 9})
        environments.step({0: "fail"})


def made_without_torch(make_environment, config, episode):
    environment = make_environment(config, 1, episode, False)
    assert "torch" not in sys.modules
    return environment


def test_an_atari_worker_does_without_torch(tmp_path):
    start_one(partial(made_without_torch, make_atari, make_config(tmp_path)), make_config(tmp_path))


def made_for_one_thread(config, episode):
    environment = made_without_torch(make_dmcontrol, config, episode)
    assert os.environ["LP_NUM_THREADS"] == "0"  # else each worker would draw with a thread for every core
    return environment


@pytest.mark.gl
def test_a_dmcontrol_worker_does_without_torch_and_draws_with_one_thread(tmp_path, monkeypatch):
    monkeypatch.delenv("LP_NUM_THREADS", raising=False)
    config = make_dmcontrol_config(tmp_path)
    start_one(partial(made_for_one_thread, config), config)


def start_one(make_environment, config):
    with SpreadEnvironments(make_environment, (1, *config.observation_shape), 1, HANG, False) as environments:
        environments.start({0: 0})
        assert environments.observations.std() > 0
