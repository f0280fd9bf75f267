"""The pixel baseline: shapes, its loss, and what it shares with Masked World Models."""

import copy

import pytest
import torch

from mwm.config import ScheduleConfig
from mwm.pixels import Pictures, PixelDecoder, PixelEncoder, map_sides, pixel_loss
from mwm.schedule import Rounds
from tests.mwm.test_agent import Fixed, make


@pytest.mark.parametrize("size, sides", [(64, [64, 32, 16, 8, 4]), (32, [32, 16, 8, 4]), (40, [40, 20, 10, 5])])
def test_encoder_and_decoder_mirror_each_other(size, sides):
    assert map_sides(size) == sides
    encoder, decoder = PixelEncoder(2, size), PixelDecoder(2, size, 7)
    embedding = encoder(torch.zeros(3, 3, size, size))
    assert embedding.shape == (3, encoder.width) and encoder.width == (2 << len(sides) - 2) * sides[-1] ** 2
    assert decoder(torch.zeros(3, 7)).shape == (3, 3, size, size)


def test_the_loss_is_the_likelihood_of_normals():
    generator = torch.Generator().manual_seed(0)
    predicted, pixels = torch.randn(2, 5, 3, 4, 4, generator=generator)
    normal = torch.distributions.Independent(torch.distributions.Normal(predicted, 1.0), 3)
    constant = torch.distributions.Independent(torch.distributions.Normal(pixels, 1.0), 3).log_prob(pixels)
    expected = (constant - normal.log_prob(pixels)).mean()
    torch.testing.assert_close(pixel_loss(predicted, pixels), expected)


def test_pictures_are_the_pixels():
    pictures = torch.tensor([0, 51, 255], dtype=torch.uint8)
    assert Pictures().features(pictures).tolist() == pytest.approx([-0.5, -0.3, 0.5])


def test_an_update_trains_the_encoder_by_the_pixels_and_lowers_their_loss():
    agent, replay = make(world_model="pixels"), Fixed()
    assert agent.cycle == (("dynamics",),) and "autoencoder" not in agent.optimizers
    before = copy.deepcopy(agent.dynamics.state_dict())
    losses = [float(agent.update(replay, 10, "dynamics")["dynamics/pixel_loss"]) for _ in range(30)]
    changed = {name for name, value in agent.dynamics.state_dict().items() if not torch.equal(value, before[name])}
    assert any(name.startswith("pool") for name in changed) and any(name.startswith("unpool") for name in changed)
    assert losses[-1] < losses[0]


def test_actor_critic_and_recurrence_are_those_of_masked_world_models():
    baseline, masked = make(world_model="pixels"), make()
    for part in ("actor", "critic", "target"):
        shapes = [
            {name: value.shape for name, value in getattr(agent.behaviour, part).state_dict().items()}
            for agent in (baseline, masked)
        ]
        assert shapes[0] == shapes[1]
    assert baseline.dynamics.rssm.cell.weight.shape == masked.dynamics.rssm.cell.weight.shape


def test_its_schedule_lacks_the_autoencoder_s_updates():
    settings = ScheduleConfig(pretraining=40, every=5)
    masked, baseline = Rounds(20, settings, "first"), Rounds(20, settings, "first", ("dynamics",))
    for step in range(50):
        assert baseline.due(step) == tuple(kind for kind in masked.due(step) if kind == "dynamics")
    assert baseline.total(50) == sum(len(baseline.due(step)) for step in range(50)) == 2 + 6
