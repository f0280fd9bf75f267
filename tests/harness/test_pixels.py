"""Pixels on their way to the device."""

import numpy as np
import pytest
import torch

from harness.pixels import to_device
from tests.conftest import ROOT


def test_an_observation_goes_to_a_gpu_from_pinned_memory_without_waiting(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: calls.append("pinned") or self)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device, **how: calls.append((device.type, how)) or self)
    observation = np.arange(6, dtype=np.uint8)
    assert to_device(observation, torch.device("cuda")).tolist() == observation.tolist()
    assert calls == ["pinned", ("cuda", {"non_blocking": True})]


@pytest.mark.parametrize("agent", ["atari", "dmcontrol", "mwm"])
def test_every_agent_acts_that_way(agent):
    act = (ROOT / agent / "agent.py").read_text().split("def act(")[1].split("def ")[0]
    assert "to_device(observation, self.device)" in act and "from_numpy" not in act
