"""Runs across a reset: resumed before and after it, and with recorded updates."""

import copy

import pytest
import torch

from harness import capture
from harness.loop import TrainingLoop
from harness.parts import make_parts
from tests.conftest import make_config, make_dmcontrol_config
from tests.harness.test_capture import record
from tests.operations import assert_same
from tests.recipes import ATARI, DMCONTROL

CASES = {  # the step whose updates a reset follows
    "annealing": (
        ATARI, make_config, 32,
        "ladder=annealing agent.n_step_initial=4 agent.anneal_updates=10 resets.every=31 loop.learning_starts=30",
    ),
    "heads": (DMCONTROL, make_dmcontrol_config, 32, "ladder=resets resets.every=32"),
    "all": (DMCONTROL, make_dmcontrol_config, 32, "ladder=resets_all resets.every=32 auxiliary=spr"),
}  # fmt: skip


def make_loop(case, recorded=False):
    recipe, make, _, settings = CASES[case]
    parts = make_parts(make("unused", *settings.split()), recipe, torch.device("cpu"))
    if recorded:
        parts.update = capture.capture_updates(parts.agent, parts.replay)
    loop = TrainingLoop(parts, "overlapped")
    loop.start()
    return loop


def go(loop, until):
    while loop.position.step < until:
        loop.step()
    return loop


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_loop_and_recorded_updates_go_on_as_a_straight_one(case, monkeypatch):
    """A checkpoint before the step with the reset, and one after it."""
    monkeypatch.setattr(capture, "record", record)
    straight, saved, reset = make_loop(case), {}, CASES[case][2]
    for step in (reset, reset + 1):
        before = copy.deepcopy(straight.agent.state()["networks"])
        go(straight, step)
        saved[step] = copy.deepcopy({name: part.state() for name, part in straight.stateful.items()})
        saved[step]["rows"] = straight.replay.rows(0, step)
    assert any(not torch.equal(old, saved[reset + 1]["agent"]["networks"][name]) for name, old in before.items())
    go(straight, reset + 8)
    for state in saved.values():
        loop = make_loop(case)
        loop.replay.load_rows(0, state.pop("rows"))
        for name, part in loop.stateful.items():
            part.load_state(copy.deepcopy(state[name]))
        go(loop, reset + 8)
        assert_same(straight.agent.state(), loop.agent.state())
        if case == "annealing":
            assert loop.agent.cycle_updates == 14  # of the 7 steps after the reset
    assert_same(straight.agent.state(), go(make_loop(case, recorded=True), reset + 8).agent.state())
