"""The autoencoder: its decoder, its target, its groups."""

import pytest
import torch

from auxiliaries.autoencoder import dequantised
from tests.conftest import make_dmcontrol_config
from tests.operations import fill, make_agent_and_replay
from tests.recipes import DMCONTROL

CPU = torch.device("cpu")


def make(*overrides):
    config = make_dmcontrol_config("unused", "auxiliary=autoencoder", *overrides)
    agent, replay = make_agent_and_replay(DMCONTROL, config, CPU)
    fill(replay, config)
    return agent, replay


@pytest.mark.parametrize("strides, crop", [([2, 1], 34), ([2, 2], 33), ([2, 2, 1, 1], 40), ([3, 1], 35), ([1], 20)])
def test_the_decoder_gives_pictures_of_the_encoder_s_size(strides, crop):
    agent, _ = make(f"agent.encoder.strides={strides}".replace(" ", ""), f"agent.crop_size={crop}")
    latent = torch.randn(2, 16)
    assert agent.auxiliary.owned["decoder"](latent).shape == (2, 9, crop, crop)


def test_targets_are_bins_with_uniform_noise():
    pixels = torch.arange(256.0)
    low, high = (dequantised(pixels, torch.full((256,), noise, dtype=torch.uint8), 5) for noise in (0, 255))
    expected = torch.tensor([(value // 8) / 32 - 0.5 for value in range(256)])
    assert torch.equal(low, expected)
    torch.testing.assert_close(high, expected + 255 / 256 / 32)
    assert low.min() == -0.5 and high.max() < 0.5


def test_only_the_decoder_decays_and_nothing_is_clipped():
    agent, replay = make()
    encoder, decoder = agent.optimizers["auxiliary"].param_groups
    assert (encoder["weight_decay"], decoder["weight_decay"]) == (0, 1e-7)
    metrics = agent.update(replay, 60, "update")
    assert float(encoder["lr"]) == float(decoder["lr"]) == pytest.approx(1e-3)
    assert "aux/grad_norm" not in metrics and metrics["aux/loss"] > metrics["aux/error"] > 0


def test_it_learns_a_picture():
    agent, replay = make("aux_optimizer.learning_rate=0.01")
    replay.frames.frames.fill_(230)
    first = agent.update(replay, 60, "update")["aux/error"]
    for step in range(61, 90):
        last = agent.update(replay, step, "update")["aux/error"]
    assert last < 0.2 * first
