"""The variant `lean` of MLR: its arithmetic, and its share of a batch."""

import pytest
import torch

from auxiliaries.slot import Reads
from harness.operations import run_operations
from tests.atari.test_replay import FIELDS, make_replay, play, random_script
from tests.conftest import make_config
from tests.operations import make_spaces
from tests.recipes import ATARI


@pytest.mark.parametrize("preset", ["full", "cpu", "quick"])
def test_an_update_takes_at_most_twice_the_baseline_s_arithmetic(preset):
    settings = ((f"preset={preset}", "+variant=lean"), (f"preset={preset}", "auxiliary=none"))
    lean, baseline = (make_config("unused", *each) for each in settings)
    counts = [run_operations(ATARI.method, config, make_spaces(config), {"update": 1}) for config in (lean, baseline)]
    assert counts[1] < counts[0] <= 2 * counts[1]


def test_fewer_sequences_are_the_first_of_a_batch():
    replay = make_replay()
    play(replay, random_script(0, 70, end_rate=0.3))
    indices = torch.arange(20, 35)
    whole, part = (replay.gather(indices, 1.0, Reads("windows", 3, FIELDS, count)) for count in (None, 4))
    for name, value in vars(whole).items():
        assert getattr(part, name).equal(value[:, :4] if name in FIELDS else value), name
