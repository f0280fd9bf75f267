"""Adam against the formula in plain Python."""

import math

import pytest
import torch
from torch import nn

from mwm.config import AdamConfig
from mwm.optimizer import Optimizer


@pytest.mark.parametrize("eps", ["tensorflow", "torch"])
def test_a_step_is_the_formula(eps):
    config = AdamConfig(
        learning_rate=0.01, warmup_updates=3, beta1=0.9, beta2=0.999, eps=1e-3, clip_norm=1.0, weight_decay=0.1,
        decayed="all",
    )  # fmt: skip
    weight = nn.Parameter(torch.tensor([2.0]))
    optimizer = Optimizer([weight], config, eps)
    expected, first, second = 2.0, 0.0, 0.0
    for made, slope in enumerate((0.5, -3.0, 0.02, 0.3, 0.1)):
        optimizer.step((slope * weight).sum())
        clipped = slope / max(abs(slope), 1.0)
        first, second = 0.9 * first + 0.1 * clipped, 0.999 * second + 0.001 * clipped**2
        correction, root = 1 - 0.9 ** (made + 1), math.sqrt(1 - 0.999 ** (made + 1))
        if eps == "tensorflow":
            move = root / correction * first / (math.sqrt(second) + 1e-3)
        else:
            move = first / correction / (math.sqrt(second) / root + 1e-3)
        expected = 0.9 * expected - 0.01 * min(made / 3, 1) * move
        assert weight.item() == pytest.approx(expected, rel=2e-5)
