"""Convolution, bias and ReLU as one call against the three operations."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from harness import fused as fusing
from harness.config import ConfigError
from harness.convolution import ConvReLU
from harness.precision import make_autocast
from mlr.augmentation import RandomCrop
from tests.conftest import make_config, make_dmcontrol_config
from tests.operations import fill, make_agent_and_replay
from tests.recipes import ATARI, DMCONTROL

CPU = torch.device("cpu")
CASES = {"atari": (ATARI, make_config), "dmcontrol": (DMCONTROL, make_dmcontrol_config)}


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    monkeypatch.setattr("harness.convolution.COMPARED_IMAGES", 8)


def make(name, precision="fp32"):
    recipe, make_configuration = CASES[name]
    return make_agent_and_replay(recipe, make_configuration("unused", f"precision={precision}"), CPU)[0]


def layers(agent):
    modules = [agent.networks, agent.auxiliary.owned, agent.auxiliary.targets]
    return [layer for module in modules for layer in module.modules() if isinstance(layer, ConvReLU)]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", CASES)
def test_output_gradients_and_their_strides_are_equal_on_a_cpu(name, precision):
    """Bit for bit; Adam's one kernel needs gradients that lie as the weights do."""
    agent, found = make(name, precision), []
    channels = layers(agent)[0][0].in_channels
    size = 84 if name == "atari" else agent.config.crop_size
    pixels = torch.randint(256, (6, channels, size, size), generator=torch.Generator().manual_seed(0)).float()
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    for fused in (False, True):
        for layer in layers(agent):
            layer.fused = fused
        agent.encoder.zero_grad()
        with make_autocast(precision, CPU)():
            latents = agent.encoder(pixels).float()
        latents.square().mean().backward()
        weights = list(agent.encoder.parameters())
        assert all(weight.grad.stride() == weight.stride() for weight in weights)
        found.append([latents.detach(), *(weight.grad for weight in weights)])
    assert all(float(value.abs().max()) > 0 for value in found[0])
    for expected, actual in zip(*found, strict=True):
        assert torch.equal(expected, actual)


@pytest.mark.parametrize("name", CASES)
def test_the_faster_way_is_kept_in_every_copy_of_a_layer(name, monkeypatch):
    """With a clock that favours one way: the fused one is timed first."""
    agent = make(name)

    def crop(self, images, offsets, factor, dtype):
        return self._by_torch(images, offsets, factor)

    monkeypatch.setattr(RandomCrop, "_by_kernel", crop)  # the real one needs a GPU: tests/test_kernels.py
    for times, expected in (((1.0, 2.0), True), ((2.0, 1.0), False)):
        ticks = iter(times * 10)
        reasons = agent.fuse(lambda work, ticks=ticks: next(ticks))
        assert {layer.fused for layer in layers(agent)} == {expected}
        assert bool(reasons) != expected and all("takes 2.00 times as long" in reason for reason in reasons)
    assert len(layers(agent)) >= 4  # also the momentum encoder's


@pytest.mark.parametrize(
    "name, aux, precision",
    [("atari", "spr", "bf16"), ("dmcontrol", "autoencoder", "bf16")]
    + [(name, "mlr", precision) for name in CASES for precision in ("fp32", "bf16")],
)
def test_an_update_with_every_fused_way_is_an_update(name, aux, precision, monkeypatch):
    """On a CPU, with torch's crop in the kernel's place: its type, its layout and its further channels."""

    def crop(self, images, offsets, factor, dtype):
        pixels = self._by_torch(images, offsets, factor).to(dtype)
        channels = pixels.shape[1]  # `padded_channels` needs Triton
        padded = F.pad(pixels, (0,) * 5 + ((8 if channels <= 8 else 16) - channels,))
        return padded.contiguous(memory_format=torch.channels_last)

    monkeypatch.setattr(RandomCrop, "_by_kernel", crop)
    recipe, make_configuration = CASES[name]
    config = make_configuration("unused", f"precision={precision}", f"auxiliary={aux}")
    found = []
    for ways in (False, True):
        agent, replay = make_agent_and_replay(recipe, config, CPU)
        fill(replay, config)
        if ways:
            ticks = itertools.cycle((1.0, 2.0))
            assert agent.fuse(lambda work, ticks=ticks: next(ticks)) == []
            assert all(layer.fused for layer in layers(agent))
        found.append({key: float(value) for key, value in agent.update(replay, 60, "update").items()})
    tolerance = 1e-4 if precision == "fp32" else 0.05
    assert found[1] == pytest.approx(found[0], rel=tolerance, abs=tolerance / 10)


def test_what_disagrees_or_raises_is_not_used():
    one = [torch.ones(3)]
    assert fusing.reason_against(lambda: one, lambda: one, "fp32", lambda work: 1.0) == "takes 1.00 times as long"
    for wrong in (torch.full((3,), 1.1), torch.full((3,), torch.nan)):
        for found in ([*one, wrong], [wrong, *one]):  # a gradient, or the result
            reason = fusing.reason_against(lambda found=found: found, lambda: one * 2, "bf16", lambda work: 1.0)
            assert reason.startswith("differs")
    assert fusing.reason_against(lambda: 1 / 0, lambda: one, "fp32", lambda work: 1.0).startswith("ZeroDivisionError")
    with pytest.raises(torch.OutOfMemoryError):
        fusing.reason_against(lambda: exec("raise torch.OutOfMemoryError"), lambda: one, "fp32", lambda work: 1.0)
    with pytest.raises(ConfigError, match="use fused=off"):  # the process has lost its GPU
        fusing.reason_against(lambda: exec("raise torch.AcceleratorError"), lambda: one, "fp32", lambda work: 1.0)
