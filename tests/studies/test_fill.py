"""Replays filled as rows for a measurement of speed."""

from types import SimpleNamespace

import pytest
import torch

from studies.speed.fill import fill_by_steps, fill_replay
from tests.conftest import make_config, make_dmcontrol_config
from tests.operations import make_agent_and_replay, make_spaces
from tests.recipes import ATARI, DMCONTROL

CASES = {"atari": (ATARI, make_config), "dmcontrol": (DMCONTROL, make_dmcontrol_config)}


@pytest.mark.parametrize("name", CASES)
def test_rows_leave_the_replay_as_steps_do(name):
    """Counters, leaves and what a step's frames and flags are; the noise itself is another."""
    recipe, make = CASES[name]
    config = make("unused")
    steps, filled = 50, []
    for fill in (fill_by_steps, fill_replay):
        _, replay = make_agent_and_replay(recipe, config, torch.device("cpu"))
        spaces = make_spaces(config)
        environment = SimpleNamespace(observation_space=spaces.observation, action_space=spaces.action)
        fill(config, SimpleNamespace(replay=replay, environment=environment), steps)
        filled.append(replay)
    expected, actual = filled
    for state, other in zip(expected.state().values(), actual.state().values(), strict=True):
        assert torch.equal(torch.as_tensor(state), torch.as_tensor(other))
    rows, others = (replay.rows(0, steps) for replay in filled)
    assert {key: value.shape for key, value in rows.items()} == {key: value.shape for key, value in others.items()}
    for key in {"flags", "newest_frames", "since_first", "frame_numbers"} & rows.keys():
        assert torch.equal(rows[key], others[key]), key
    assert others["frames"].float().std() > 60  # uniform noise has 74
    fill_by_steps(config, SimpleNamespace(replay=actual, environment=environment), 1)  # a step may follow
    assert actual.steps_stored == steps + 1
