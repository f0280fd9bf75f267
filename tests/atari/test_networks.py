"""Networks against slow references, initialisation statistics and the reference files."""

import copy
import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from atari.config import AgentConfig, EncoderConfig
from atari.networks import (
    ActionEmbedding,
    DuelingHead,
    Encoder,
    HeadProjector,
    NoisyLinear,
    renormalize,
    scale_gradient,
    signed_sqrt,
    stage_layers,
)
from mlr.cells import features_of
from tests.golden.atari_a_b_c import replay_a, replay_b
from tests.golden.atari_weights import agent_config, load_arrays
from tests.golden.check import DATA, assert_all

CPU = torch.device("cpu")
CONV = {"kind": "conv", "padding": "valid", "blocks": 0}
FULL = EncoderConfig(channels=[32, 64, 64], kernels=[8, 4, 3], strides=[4, 2, 1], **CONV)
SMALL = EncoderConfig(channels=[3, 5], kernels=[4, 3], strides=[2, 1], **CONV)
LATENT, ACTIONS, HIDDEN, ATOMS = 12, 4, 6, 5


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def head_config(hidden: int, atoms: int, sigma0: float) -> AgentConfig:
    reference = agent_config(load_arrays(DATA / "atari" / "b_head.npz"))
    return dataclasses.replace(reference, hidden=hidden, atoms=atoms, noisy_sigma0=sigma0)


def small_head() -> DuelingHead:
    return DuelingHead(LATENT, ACTIONS, head_config(HIDDEN, ATOMS, sigma0=0.5))


def draw(head: DuelingHead, seed: int = 1) -> torch.Tensor:
    return head.draw_noise(torch.Generator().manual_seed(seed), CPU)


def test_reference_encoder():
    assert_all(replay_a(DATA / "atari"))


def test_reference_head():
    assert_all(replay_b(DATA / "atari"))


def test_renormalize_keeps_the_bits_of_finite_results():
    features = torch.randn(7, 3, 4, 5).relu()
    features[3] = 1e-6 * torch.rand(3, 4, 5)
    expected = [(sample - sample.min()) / (sample.max() - sample.min()) for sample in features]
    assert torch.equal(renormalize(features), torch.stack(expected))


def test_renormalize_of_a_constant_map_is_zero_with_a_finite_gradient():
    features = torch.rand(3, 2, 4, 4)
    features[1] = 0.7
    alone = features[[0, 2]].clone().requires_grad_()
    features.requires_grad_()
    weights = torch.randn(3, 2, 4, 4)
    (renormalize(features) * weights).sum().backward()
    (renormalize(alone) * weights[[0, 2]]).sum().backward()
    assert torch.equal(renormalize(features)[1], torch.zeros(2, 4, 4))
    assert torch.isfinite(features.grad).all()
    assert torch.equal(features.grad[[0, 2]], alone.grad)  # the guard of one sample leaves the others alone


def test_encoder_divides_by_255_and_takes_any_dtype():
    encoder = Encoder(SMALL, in_channels=2, image_size=15)
    pixels = torch.randint(0, 256, (4, 2, 15, 15), dtype=torch.uint8)
    first, second = (stage[0] for stage in encoder.stages.values())
    scaled = pixels.double().div(255).float()
    maps = F.relu(second(F.relu(F.conv2d(scaled, first.weight, first.bias, first.stride))))
    latent = encoder(pixels)
    torch.testing.assert_close(latent, renormalize(maps).flatten(1), rtol=0, atol=1e-6)
    assert torch.equal(latent, encoder(pixels.float()))
    assert latent.shape == (4, encoder.latent_dim)
    assert list(encoder.stages) == ["conv1", "conv2"]


@pytest.mark.parametrize("kind, padding, blocks", [("conv", "valid", 0), ("conv", "same", 0), ("impala", "same", 1)])
def test_the_layers_of_each_stage_say_which_features_read_a_pixel(kind, padding, blocks):
    """NaN in one pixel spreads to those features alone."""
    kernels, strides = ([3, 3, 3], [2, 2, 2]) if kind == "impala" else (FULL.kernels, FULL.strides)
    config = EncoderConfig(kind, [2, 2, 2], kernels, strides, padding, blocks)
    encoder = Encoder(config, in_channels=1, image_size=84).double()
    for pixel in (0, 1, 30, 82, 83):
        maps, layers = torch.zeros(1, 1, 84, 84, dtype=torch.float64), []
        maps[..., pixel, pixel] = torch.nan
        for stage, own in zip(encoder.stages.values(), stage_layers(config, 84), strict=True):
            maps, layers = stage(maps), [*layers, *own]
            reached = maps[0].isnan().any(0).any(0).nonzero().flatten().tolist()
            assert reached == list(features_of(pixel, 84, layers))


def test_encoder_width_at_full_size():
    assert Encoder(FULL, in_channels=4, image_size=84).latent_dim == 64 * 7 * 7


def test_convolutions_and_action_embedding_start_as_the_library_draws_them():
    torch.manual_seed(3)
    convolutions = [stage[0] for stage in Encoder(FULL, in_channels=4, image_size=84).stages.values()]
    embedding = ActionEmbedding(actions=6, dim=20)
    torch.manual_seed(3)
    expected = [nn.Conv2d(4, 32, 8, 4), nn.Conv2d(32, 64, 4, 2), nn.Conv2d(64, 64, 3, 1), nn.Linear(6, 20)]
    for ours, theirs in zip([*convolutions, embedding.linear], expected, strict=True):
        assert torch.equal(ours.weight, theirs.weight) and torch.equal(ours.bias, theirs.bias)


@pytest.mark.parametrize(("inputs", "outputs", "sigma0"), [(3136, 256, 0.1), (256, 306, 0.1), (400, 2500, 0.5)])
def test_noisy_layer_starts_as_specified(inputs, outputs, sigma0):
    layer = NoisyLinear(inputs, outputs, sigma0)
    bound = 1 / math.sqrt(inputs)
    for mean in (layer.mean.weight, layer.mean.bias):
        assert mean.abs().max() <= bound
        assert mean.abs().max() > bound * (1 - 5 / mean.numel() ** 0.5)
        slack = 5 / mean.numel() ** 0.5
        assert mean.std().item() == pytest.approx(bound / math.sqrt(3), rel=slack)
        assert abs(mean.mean().item()) < slack * bound
    torch.testing.assert_close(layer.weight_sigma, torch.full((outputs, inputs), sigma0 / math.sqrt(inputs)))
    torch.testing.assert_close(layer.bias_sigma, torch.full((outputs,), sigma0 / math.sqrt(outputs)))


def test_head_passes_sigma0_to_all_four_layers():
    head = small_head()
    sizes = {"advantage_hidden": LATENT, "advantage_out": HIDDEN, "value_hidden": LATENT, "value_out": HIDDEN}
    for name, inputs in sizes.items():
        assert head.get_submodule(name).weight_sigma[0, 0].item() == pytest.approx(0.5 / math.sqrt(inputs))


def test_trained_parameters_at_full_size():
    """161.16 M with 6 actions, as counted by hand; the decoder has its own test."""
    encoder = Encoder(FULL, in_channels=4, image_size=84)
    head = DuelingHead(encoder.latent_dim, 6, head_config(hidden=256, atoms=51, sigma0=0.1))
    parts = (encoder, head, nn.Linear(512, 512), ActionEmbedding(6, encoder.latent_dim))
    decoder = 157_402_112
    total = decoder + sum(parameter.numel() for part in parts for parameter in part.parameters())
    assert round(total / 1e6, 2) == 161.16
    assert total == 161_160_490  # without the released advantage bias, 51 values that cancel in the mean


def test_without_noise_a_noisy_layer_is_its_mean():
    layer = NoisyLinear(LATENT, 3, sigma0=0.5)
    inputs = torch.randn(7, LATENT)
    assert torch.equal(layer(inputs, None), inputs @ layer.mean.weight.T + layer.mean.bias)
    zeros = (torch.zeros(LATENT), torch.zeros(3))
    torch.testing.assert_close(layer(inputs, zeros), layer(inputs, None), rtol=0, atol=0)


def test_noisy_layer_equals_the_explicit_noise_matrix():
    layer = NoisyLinear(LATENT, 3, sigma0=0.5)
    nn.init.normal_(layer.weight_sigma)  # entries that differ, so that a transposed or summed sigma would show
    nn.init.normal_(layer.bias_sigma)
    inputs, noise_in, noise_out = torch.randn(7, LATENT), torch.randn(LATENT), torch.randn(3)
    weight = layer.mean.weight + layer.weight_sigma * torch.outer(noise_out, noise_in)
    bias = layer.mean.bias + layer.bias_sigma * noise_out
    torch.testing.assert_close(layer(inputs, (noise_in, noise_out)), inputs @ weight.T + bias, rtol=1e-5, atol=1e-5)


def test_noise_is_drawn_from_the_generator_in_the_order_of_the_layers():
    head = small_head()
    sizes = [LATENT, HIDDEN, HIDDEN, ACTIONS * ATOMS, LATENT, HIDDEN, HIDDEN, ATOMS]
    noise = draw(head)
    raw = torch.randn(sum(sizes), generator=torch.Generator().manual_seed(1))
    assert head.noise_size == sum(sizes)
    assert torch.equal(noise, torch.where(raw < 0, -(-raw).sqrt(), raw.sqrt()).nan_to_num())
    parts = [part for pair in head.per_layer(noise) for part in pair]
    assert [len(part) for part in parts] == sizes
    assert torch.equal(torch.cat(parts), noise)


def test_signed_sqrt_keeps_the_sign_and_zero():
    assert torch.equal(signed_sqrt(torch.tensor([-4.0, 0.0, 9.0])), torch.tensor([-2.0, 0.0, 3.0]))


@pytest.mark.parametrize("noisy", [False, True])
def test_head_is_value_plus_centred_advantage(noisy):
    head, latent = small_head(), torch.randn(5, LATENT)
    noise = draw(head) if noisy else None
    pairs = head.per_layer(noise)
    advantage = head.advantage_out(F.relu(head.advantage_hidden(latent, pairs[0])), pairs[1])
    value = head.value_out(F.relu(head.value_hidden(latent, pairs[2])), pairs[3])
    logits = head(latent, noise)
    for action in range(ACTIONS):
        centred = sum(
            advantage[:, action * ATOMS : (action + 1) * ATOMS] - advantage[:, other * ATOMS : (other + 1) * ATOMS]
            for other in range(ACTIONS)
        )
        torch.testing.assert_close(logits[:, action], value + centred / ACTIONS, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(logits.mean(dim=1), value, rtol=1e-5, atol=1e-6)  # the advantage's mean cancels


def test_what_all_actions_share_in_the_advantage_cancels():
    head, latent = small_head(), torch.randn(5, LATENT)
    before = head(latent, None)
    with torch.no_grad():
        head.advantage_out.mean.bias += torch.randn(ATOMS).repeat(ACTIONS)
    torch.testing.assert_close(head(latent, None), before, rtol=1e-5, atol=1e-6)


def test_only_the_noise_argument_switches_the_noise():
    head, latent = small_head(), torch.randn(5, LATENT)
    noise = draw(head)
    noisy = head(latent, noise)
    assert not torch.allclose(noisy, head(latent, None))
    assert torch.equal(head.eval()(latent, noise), noisy)


def test_projector_is_value_then_advantage_without_relu_noise_or_gradient_scale():
    head = small_head()
    projector = HeadProjector(head)
    with torch.no_grad():
        head.value_hidden.weight_sigma.fill_(100)
        head.advantage_hidden.weight_sigma.fill_(100)
    latent = torch.randn(3, 2, LATENT, requires_grad=True)
    weight = torch.cat([head.value_hidden.mean.weight, head.advantage_hidden.mean.weight]).detach()
    bias = torch.cat([head.value_hidden.mean.bias, head.advantage_hidden.mean.bias]).detach()
    projection = projector(latent)
    torch.testing.assert_close(projection, latent @ weight.T + bias, rtol=1e-5, atol=1e-6)
    assert (projection < 0).any()
    projection.sum().backward()
    torch.testing.assert_close(latent.grad, weight.sum(0).expand_as(latent), rtol=1e-5, atol=1e-6)
    assert head.value_hidden.mean.weight.grad is not None  # the head's own parameters learn from it


def test_a_deep_copy_of_the_projector_holds_its_two_layers_only():
    head = small_head()
    projector = HeadProjector(head)
    copied = copy.deepcopy(projector)
    names = ["value.weight", "value.bias", "advantage.weight", "advantage.bias"]
    assert [name for name, _ in copied.named_parameters()] == names
    with torch.no_grad():
        head.value_hidden.mean.weight.zero_()
    assert not projector.value.weight.any() and copied.value.weight.any()


def test_scale_gradient_changes_the_gradient_and_nothing_else():
    values = torch.randn(4, 3, requires_grad=True)
    upstream = torch.randn(4, 3)
    scaled = scale_gradient(values, 0.7)
    assert torch.equal(scaled, values)
    ((scaled + 2 * values) * upstream).sum().backward()  # a second reader keeps its full gradient
    torch.testing.assert_close(values.grad, 0.7 * upstream + 2 * upstream)


def test_two_noises_in_one_pass_equal_two_passes():
    head, latents = small_head(), torch.randn(2, 3, LATENT)
    noises = torch.stack([draw(head, seed) for seed in (1, 2)])
    both = head(latents, noises.unsqueeze(1))
    for latent, noise, logits in zip(latents, noises, both, strict=True):
        torch.testing.assert_close(logits, head(latent, noise))
    assert not torch.allclose(both[0], head(latents[0], noises[1]))


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_encoder_s_layout_changes_no_gradient(channels_last):
    encoder = Encoder(FULL, in_channels=4, image_size=84)
    pixels = torch.randint(0, 256, (3, 4, 84, 84), dtype=torch.uint8).float()
    features = pixels / 255
    for (convolution, _), stride in zip(encoder.stages.values(), FULL.strides, strict=True):
        features = F.relu(F.conv2d(features, convolution.weight, convolution.bias, stride))
    expected = renormalize(features).flatten(1)
    weighting, parameters = torch.randn_like(expected), list(encoder.parameters())
    gradients = torch.autograd.grad((expected * weighting).sum(), parameters)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    latent = encoder(pixels.to(memory_format=layout))
    torch.testing.assert_close(latent, expected, rtol=0, atol=1e-5)
    for actual, plain in zip(torch.autograd.grad((latent * weighting).sum(), parameters), gradients, strict=True):
        torch.testing.assert_close(actual, plain, rtol=0, atol=1e-4 * plain.abs().max().item())


def test_action_embedding_is_a_column_of_its_linear():
    embedding = ActionEmbedding(actions=5, dim=7)
    actions = torch.tensor([[0, 4, 2], [3, 3, 1]])
    embedded = embedding(actions).embedded()
    for row, column in [(0, 0), (0, 1), (1, 2)]:
        action = actions[row, column]
        torch.testing.assert_close(embedded[row, column], embedding.linear.weight[:, action] + embedding.linear.bias)
    assert embedded.shape == (2, 3, 7)
