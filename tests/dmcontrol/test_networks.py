"""Networks against slow references, initialisation statistics and the reference file."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dmcontrol.config import EncoderConfig
from dmcontrol.networks import (
    Actor,
    CentreCrop,
    MapLinear,
    PixelEncoder,
    QHeads,
    init_orthogonal,
    init_truncated_normal,
    mlp,
)
from tests.conftest import make_dmcontrol_config
from tests.golden.check import DATA, assert_all
from tests.golden.dmcontrol_d import replay_d

SMALL = EncoderConfig(filters=7, strides=[2, 1], latent=6, tanh=False)
CROP, CHANNELS, ACTIONS = 16, 3, 2


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def agent_config():
    return make_dmcontrol_config("unused").agent


def small_encoder() -> PixelEncoder:
    return PixelEncoder(SMALL, CHANNELS, CROP)


def test_reference_encoders():
    assert_all(replay_d(DATA / "dmcontrol"))


def test_encoder_divides_by_255_and_takes_any_dtype():
    encoder = small_encoder()
    pixels = torch.randint(0, 256, (4, CHANNELS, CROP, CROP), dtype=torch.uint8)
    first, second = (stage[0] for stage in encoder.convolutions.stages.values())
    maps = pixels.double().div(255).float()
    for layer, stride in ((first, 2), (second, 1)):
        maps = F.relu(F.conv2d(maps, layer.weight, layer.bias, stride))
    raw = encoder.latent.fc(maps)
    expected = (raw - raw.mean(1, keepdim=True)) / (raw.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(encoder(pixels), expected, rtol=0, atol=1e-5)
    assert torch.equal(encoder(pixels), encoder(pixels.float()))


@pytest.mark.parametrize("count", [3, 8])  # fewer and more images than outputs
def test_a_linear_layer_on_channels_last_maps_is_the_one_on_flat_maps(count):
    layer, plain = MapLinear(4 * 3 * 5, 6), nn.Linear(4 * 3 * 5, 6)
    plain.load_state_dict(layer.state_dict())
    flat = torch.randn(count, 4 * 3 * 5, requires_grad=True)
    maps = flat.detach().unflatten(1, (4, 3, 5)).contiguous(memory_format=torch.channels_last).requires_grad_()
    direction = torch.randn(count, 6)
    torch.testing.assert_close(layer(maps), plain(flat), rtol=1e-5, atol=1e-6)
    (layer(maps) * direction).sum().backward()
    (plain(flat) * direction).sum().backward()
    torch.testing.assert_close(maps.grad.flatten(1), flat.grad, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(layer.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)


def test_maps_lie_channels_last_whatever_the_pixels_do():
    encoder, pixels = small_encoder(), torch.rand(9, CHANNELS, CROP, CROP) * 255
    plain = copy.deepcopy(encoder).to(memory_format=torch.contiguous_format)
    maps = encoder.convolutions(pixels)
    assert maps.is_contiguous(memory_format=torch.channels_last) and not maps.is_contiguous()
    torch.testing.assert_close(maps, plain.convolutions(pixels), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(encoder(pixels), plain(pixels), rtol=1e-5, atol=1e-5)


def test_sizes_at_full_size():
    config = make_dmcontrol_config("unused", "preset=full").agent
    encoder = PixelEncoder(config.encoder, 9, config.crop_size)
    assert encoder.convolutions.out_features == 64 * 35 * 35
    counted = 9 * 64 * 9 + 3 * 64 * 64 * 9 + 4 * 64 + 64 * 35 * 35 * 50 + 3 * 50
    assert sum(parameter.numel() for parameter in encoder.parameters()) == counted


def test_centre_crop_is_the_middle_window():
    images = torch.arange(100 * 100).view(1, 1, 100, 100)
    assert torch.equal(CentreCrop(84)(images), images[..., 8:92, 8:92])
    assert torch.equal(CentreCrop(84)(images[..., :97, :]), images[..., 6:90, 8:92])


def test_linears_start_orthogonal_without_bias():
    network = nn.Sequential(mlp(5, 12, 3))
    init_orthogonal(network)
    wide, narrow = network[0][0], network[0][2]
    torch.testing.assert_close(wide.weight.T @ wide.weight, torch.eye(5), rtol=0, atol=1e-5)
    torch.testing.assert_close(narrow.weight @ narrow.weight.T, torch.eye(3), rtol=0, atol=1e-5)
    assert not wide.bias.any() and not narrow.bias.any()


def test_convolutions_start_delta_orthogonal():
    encoder = small_encoder()
    init_orthogonal(encoder)
    for stage in encoder.convolutions.stages.values():
        weight = stage[0].weight.detach().clone()
        centre = weight[:, :, 1, 1].clone()
        torch.testing.assert_close(centre.T @ centre, 2 * torch.eye(centre.shape[1]), rtol=0, atol=1e-5)
        weight[:, :, 1, 1] = 0
        assert not weight.any() and not stage[0].bias.any()


def test_truncated_normal_is_cut_at_one_deviation():
    linear = nn.Linear(400, 300)
    init_truncated_normal(nn.Sequential(linear, nn.Linear(3, 2, bias=False)), std=0.02)
    weight = linear.weight.detach()
    assert weight.abs().max() <= 0.02 and weight.abs().max() > 0.0199
    assert weight.std().item() == pytest.approx(0.0108, rel=0.01)  # 0.54 of the uncut one
    assert abs(weight.mean().item()) < 1e-4
    assert not linear.bias.any()


def test_the_policy_s_deviation_is_bounded_and_smooth(agent_config):
    encoder = PixelEncoder(agent_config.encoder, CHANNELS, agent_config.crop_size)
    actor = Actor(agent_config, encoder.convolutions.out_features, ACTIONS)
    maps = encoder.convolutions(torch.randint(0, 256, (5, CHANNELS, agent_config.crop_size, agent_config.crop_size)))
    raw = actor.policy(actor.latent(maps))
    mean, log_std = actor(maps)
    assert torch.equal(mean, raw[:, :ACTIONS])
    torch.testing.assert_close(log_std, -10 + 6 * (raw[:, ACTIONS:].tanh() + 1))
    with torch.no_grad():
        actor.policy[-1].bias.copy_(torch.tensor([0.0, 0.0, -1e3, 1e3]))
    _, log_std = actor(maps)
    assert torch.equal(log_std, torch.tensor([[-10.0, 2.0]]).expand(5, 2))


def test_each_q_head_sees_latent_and_action(agent_config):
    heads = QHeads(agent_config, ACTIONS)
    latent, action = torch.randn(5, agent_config.encoder.latent), torch.randn(5, ACTIONS)
    q = heads(latent, action)
    for values, head in zip(q, (heads.q1, heads.q2), strict=True):
        hidden = torch.cat((latent, action), 1)
        for layer in (head[0], head[2]):
            hidden = (hidden @ layer.weight.T + layer.bias).clamp(min=0)
        torch.testing.assert_close(values, (hidden @ head[4].weight.T + head[4].bias)[:, 0])
    assert not torch.allclose(q[0], q[1])


def test_orthogonal_start_keeps_the_length_of_signals():
    """Gain sqrt 2 makes up for the ReLU: on average a centre tap leaves the mean square of its input."""
    layer = nn.Conv2d(32, 32, 3)
    init_orthogonal(layer)
    images = torch.randn(8, 32, 20, 20)
    power = F.relu(layer(images)).square().mean()
    assert power.item() == pytest.approx(1.0, rel=0.05)
    assert math.isclose(layer.weight.norm().item() ** 2, 2 * 32, rel_tol=1e-4)
