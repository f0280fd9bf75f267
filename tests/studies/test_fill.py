"""Replays filled as rows for a measurement of speed."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch

from recipes import load_recipe
from studies.speed.fill import fill_by_steps, fill_replay
from tests.conftest import composed
from tests.operations import assert_same, make_agent_and_replay, make_spaces

CASES = {
    "atari": (("game=pong",), None),
    "dmcontrol": (("task=cartpole_swingup",), None),
    "mwm": (("env=tests.own_environments:PulledSeenDot",), 20),
}


@pytest.mark.parametrize("name", CASES)
def test_rows_leave_the_replay_as_steps_do(name):
    """Counters, leaves and what a step's frames and flags are; the noise itself is another."""
    settings, episode = CASES[name]
    config = composed(name, "unused", *settings)
    assert episode in (None, getattr(config, "episode_agent_steps", None))
    steps, filled = 50, []
    for fill in (partial(fill_by_steps, episode=episode), fill_replay):
        _, replay = make_agent_and_replay(load_recipe(config), config, torch.device("cpu"))
        spaces = make_spaces(config)
        environment = SimpleNamespace(observation_space=spaces.observation, action_space=spaces.action)
        fill(config, SimpleNamespace(replay=replay, environment=environment), steps)
        filled.append(replay)
    expected, actual = filled
    assert_same(expected.state(), actual.state())
    rows, others = (replay.rows(0, steps) for replay in filled)
    assert {key: value.shape for key, value in rows.items()} == {key: value.shape for key, value in others.items()}
    for key in {"flags", "newest_frames", "since_first", "frame_numbers", "terminal", "first_numbers"} & rows.keys():
        assert torch.equal(rows[key], others[key]), key
    pictures = [others[key] for key in ("frames", "pictures", "first_pictures") if key in others]
    assert pictures and all(each.float().std() > 60 for each in pictures)  # uniform noise has 74
    fill_by_steps(config, SimpleNamespace(replay=actual, environment=environment), 1)  # a step may follow
    assert actual.steps_stored == steps + 1
