import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dmcontrol.agent import SACAgent
from dmcontrol.cost import encoder_multiply_adds, update_flops
from tests.conftest import make_dmcontrol_config
from tests.dmcontrol.test_agent import filled_replay


def test_the_arithmetic_of_a_full_update_is_the_counted_one():
    """Counted by hand with a convolution pass of its own for the actor: 3.66 TFLOP, 3.6 times the Baseline."""
    mlr = make_dmcontrol_config("unused", "preset=full", "task=cheetah_run")
    baseline = make_dmcontrol_config("unused", "preset=full", "task=cheetah_run", "aux=none")
    convolutions = sum(encoder_multiply_adds(mlr)[:2])
    shared_pass = 2 * 512 * convolutions / 2  # in every second update
    whole, base = (update_flops(config, 6) + shared_pass for config in (mlr, baseline))
    assert whole == pytest.approx(3.66e12, rel=0.01)
    assert whole / base == pytest.approx(3.6, rel=0.01)
    assert 2 * sum(encoder_multiply_adds(mlr)) == pytest.approx(0.33e9, rel=0.01)


@pytest.mark.parametrize("overrides", [("aux=mlr",), ("aux=none",), ("aux=mlr", "mlr.decoder.depth=3")])
def test_the_formula_agrees_with_the_operations_of_an_update(overrides):
    config = make_dmcontrol_config("unused", *overrides)
    agent, replay = SACAgent(config, 1, torch.device("cpu")), filled_replay(config)
    flops = []
    for step in (0, 1):
        with FlopCounterMode(display=False) as counter:
            agent.update(replay, step, "update")
        flops.append(counter.get_total_flops())
    assert flops[0] > flops[1]
    assert update_flops(config, 1) == pytest.approx(np.mean(flops), rel=1e-9)
