"""T time, B batch, C H W a stacked observation, D latent, P projection."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from auxiliaries.slot import Shared, loss_in_slices
from mlr.config import DecoderConfig, MaskConfig, MLRConfig
from mlr.masking import sample_mask
from mlr.objective import MLR
from mlr.pixel_target import PixelMLR
from studies.clips import measure_agreement

STEPS, BATCH, CHANNELS, SIZE, DIM, PROJECTION, ACTIONS = 4, 3, 2, 6, 8, 5, 3
CONFIG = MLRConfig(
    seq_len=STEPS,
    weight=7.0,  # the agent's: must not reach the loss
    tau=0.25,
    masked_scale=3.0,
    target="latent",
    distance="cosine",
    distance_scale=1.0,
    norm_floor=1e-3,
    projector=True,
    predictor=True,
    action_tokens=True,
    reward_weight=0.0,
    mask=MaskConfig("cube", 0.5, 2, 2, "up", "pixel", "conv1"),
    weight_by_task={},
    sequences=0,
    decoder=DecoderConfig(depth=2, heads=1, mlp_ratio=2.0, qkv_bias=False, norm_eps=1e-5, width=0),
)


class Encoder(nn.Module):
    """Pixels [N, C, H, W] in 0..255 -> [N, D]; keeps what it was given."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(CHANNELS * SIZE * SIZE, DIM)
        self.seen = None

    def forward(self, pixels):
        self.seen = pixels.detach()
        return self.linear(pixels.flatten(1) / 255).relu()


class Constant(nn.Module):
    """Maps everything to one vector."""

    def __init__(self, vector):
        super().__init__()
        self.vector = nn.Parameter(vector)

    def forward(self, x):
        return self.vector.expand(*x.shape[:-1], -1)


class ActionEmbedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(ACTIONS, DIM)

    def forward(self, actions):
        return self.linear(nn.functional.one_hot(actions, ACTIONS).to(self.linear.weight.dtype))


def identity_view(frames):
    return frames.to(torch.get_default_dtype())


def make(config=CONFIG, mask=None, predictor=None, projector=None, encoder=None, masked=None, target=None):
    torch.manual_seed(0)
    if mask is None:
        mask = sample_mask(config.mask, STEPS, SIZE, torch.Generator().manual_seed(1), "cpu")
    return MLR(
        config,
        encoder=encoder or Encoder(),
        projector=projector or nn.Linear(DIM, PROJECTION),
        action_embedding=ActionEmbedding(),
        predictor=predictor or nn.Linear(PROJECTION, PROJECTION),
        latent_dim=DIM,
        mask=lambda: mask,
        augment_masked=masked or identity_view,
        augment_target=target or identity_view,
    )


def make_batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (STEPS, BATCH, CHANNELS, SIZE, SIZE)
    return SimpleNamespace(
        frames=torch.randint(1, 256, shape, dtype=torch.uint8, generator=generator),
        actions=torch.randint(0, ACTIONS, (STEPS, BATCH), generator=generator),
    )


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def loss_of(mlr, batch):
    """The loss [T, B] of a whole batch, and metrics."""
    drawn = mlr.draw(batch.frames)
    values = mlr.loss(batch, drawn, slice(None))
    return values["loss"], mlr.metrics(values, drawn, batch.frames.shape[-1])


def owned_parameters(mlr):
    return list(mlr.owned.parameters())


def disturbed(mlr):
    """Targets and owned modules away from their initial values."""
    with torch.no_grad():
        for module in (mlr.owned, mlr.targets):
            for parameter in module.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    return mlr


def slow_loss(mlr, mask, batch):
    """The loss of every step and sequence from raw weights, one sequence and one token at a time."""
    config = mlr.config
    grid = mask.shape[-1]
    decoder, embedding = mlr.owned["decoder"], mlr.owned["action_embedding"].linear
    losses = [[None] * BATCH for _ in range(STEPS)]
    for b in range(BATCH):
        states, actions = [], []
        for t in range(STEPS):
            pixels = batch.frames[t, b].double()
            keep = torch.ones(SIZE, SIZE)
            for i in range(SIZE):
                for j in range(SIZE):
                    keep[i, j] = 0.0 if mask[0, t, i * grid // SIZE, j * grid // SIZE] else 1.0
            linear = mlr.encoder.linear
            latent = (linear.weight @ (pixels * keep * config.masked_scale / 255).flatten() + linear.bias).clamp(min=0)
            position = torch.tensor(
                [f(t * 10000 ** (-2 * i / DIM)) for i in range(DIM // 2) for f in (math.sin, math.cos)]
            ).float()  # the table is float32
            states.append(latent + position)
            actions.append(embedding.weight[:, batch.actions[t, b]] + embedding.bias + position)
        tokens = states + actions
        for block in decoder.blocks:
            tokens = slow_block(block, tokens)
        for t in range(STEPS):
            projected = mlr.projector.weight @ tokens[t] + mlr.projector.bias
            predictor = mlr.owned["predictor"]
            prediction = predictor.weight @ projected + predictor.bias
            encoder, projector = mlr.targets["encoder"].linear, mlr.targets["projector"]
            latent = (encoder.weight @ (batch.frames[t, b].double() / 255).flatten() + encoder.bias).clamp(min=0)
            target = (projector.weight @ latent + projector.bias).detach()
            cosine = (prediction @ target) / (prediction @ prediction).sqrt() / (target @ target).sqrt()
            losses[t][b] = config.distance_scale * (2 - 2 * cosine)
    return torch.stack([torch.stack(row) for row in losses])


def slow_block(block, tokens):
    def norm(x, layer):
        return (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt() * layer.weight + layer.bias

    query, key, value = block.qkv.weight.chunk(3)
    normed = [norm(token, block.ln1) for token in tokens]
    out = []
    for token, own in zip(tokens, normed, strict=True):
        scores = torch.stack([(query @ own) @ (key @ other) for other in normed]) / DIM**0.5
        weights = scores.exp() / scores.exp().sum()
        mixed = sum(w * (value @ other) for w, other in zip(weights, normed, strict=True))
        x = token + block.proj.weight @ mixed + block.proj.bias
        hidden = block.fc1.weight @ norm(x, block.ln2) + block.fc1.bias
        hidden = 0.5 * hidden * (1 + torch.erf(hidden / 2**0.5))
        out.append(x + block.fc2.weight @ hidden + block.fc2.bias)
    return out


@pytest.mark.parametrize("distance_scale", [1.0, 0.5])
def test_loss_and_gradients_equal_a_slow_reference(double, distance_scale):
    config = replace(CONFIG, distance_scale=distance_scale)
    mask = sample_mask(config.mask, STEPS, SIZE, torch.Generator().manual_seed(1), "cpu")
    mlr, batch = disturbed(make(config, mask)), make_batch()
    weighting = torch.rand(STEPS, BATCH)
    trained = [*mlr.encoder.parameters(), *mlr.projector.parameters(), *owned_parameters(mlr)]

    loss, _ = loss_of(mlr, batch)
    gradients = torch.autograd.grad((loss * weighting).sum(), trained)
    expected = slow_loss(mlr, mask, batch)
    expected_gradients = torch.autograd.grad((expected * weighting).sum(), trained)

    assert loss.shape == (STEPS, BATCH)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        assert expected_gradient.abs().max() > 0
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-7, atol=1e-9)


def test_loss_is_float32_and_depends_on_the_floor_and_scale_only():
    """A projector that returns one unit vector, and predictors that scale it."""
    unit = torch.tensor([0.6, 0.0, 0.8, 0.0, 0.0])
    cases = {1.0: 0.0, 3.0: 0.0, -2.0: 4.0, 1e-3: 0.0, 1e-4: 0.9**2, -5e-4: 1.5**2, 0.0: 1.0}
    for factor, distance in cases.items():
        scaled = nn.Linear(PROJECTION, PROJECTION, bias=False)
        with torch.no_grad():
            scaled.weight.copy_(factor * torch.eye(PROJECTION))
        for scale in (1.0, 0.5):
            config = replace(CONFIG, distance_scale=scale)
            loss, _ = loss_of(make(config, predictor=scaled, projector=Constant(unit)), make_batch())
            assert loss.dtype == torch.float32
            torch.testing.assert_close(loss, torch.full((STEPS, BATCH), scale * distance), rtol=1e-5, atol=1e-6)


def test_gradients_reach_everything_but_the_targets():
    mlr = make()
    loss, metrics = loss_of(mlr, make_batch())
    loss.mean().backward()
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in mlr.targets.parameters())
    for parameter in [*mlr.encoder.parameters(), *mlr.projector.parameters(), *owned_parameters(mlr)]:
        assert parameter.grad is not None and parameter.grad.abs().max() > 0
    assert not any(metric.requires_grad for metric in metrics.values())


def test_targets_are_constants_even_where_they_could_take_gradients():
    mlr = make()
    mlr.targets.requires_grad_(True)
    loss_of(mlr, make_batch())[0].mean().backward()
    assert all(parameter.grad is None for parameter in mlr.targets.parameters())


class Sliced:
    """An objective as the slot calls it."""

    independent = True

    def __init__(self, mlr):
        self.mlr = mlr

    def draw(self, batch, shared):
        return self.mlr.draw(batch.frames)

    def loss(self, batch, shared, drawn, samples):
        return self.mlr.loss(batch, drawn, samples)

    def metrics(self, values, drawn):
        return self.mlr.metrics(values, drawn, SIZE)


@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, distance="mse", reward_weight=0.5)])
def test_slices_give_the_loss_the_metrics_and_the_gradients_of_the_whole(double, config):
    mask = sample_mask(config.mask, STEPS, SIZE, torch.Generator().manual_seed(1), "cpu")
    mlr, batch, weighting = disturbed(make(config, mask)), make_batch(), torch.rand(STEPS, BATCH)
    batch.rewards = torch.randn(STEPS, BATCH)
    trained = [*mlr.encoder.parameters(), *mlr.projector.parameters(), *owned_parameters(mlr)]
    expected, expected_metrics = loss_of(mlr, batch)
    expected_gradients = torch.autograd.grad((expected * weighting).sum(), trained)

    slices, given = [slice(0, 2), slice(2, 3)], []

    def backward(loss):
        given.append(loss.detach())
        (loss * weighting[:, slices[len(given) - 1]]).sum().backward()

    loss, metrics = loss_in_slices(Sliced(mlr), batch, Shared(), slices, backward)
    assert not loss.requires_grad and torch.cat(given, dim=1).equal(loss)
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-9, atol=1e-9)
    assert list(metrics) == list(expected_metrics)
    for name, value in expected_metrics.items():
        torch.testing.assert_close(metrics[name], value, rtol=1e-6, atol=1e-9, msg=name)
    for parameter, gradient in zip(trained, expected_gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-7, atol=1e-9)


def test_what_is_borrowed_is_not_owned():
    mlr = make()
    owned = {id(parameter) for parameter in owned_parameters(mlr)}
    assert set(mlr.owned) == {"decoder", "predictor", "action_embedding"}
    assert owned == {id(parameter) for module in mlr.owned.values() for parameter in module.parameters()}
    for module in (mlr.encoder, mlr.projector, mlr.targets):
        assert owned.isdisjoint(id(parameter) for parameter in module.parameters())


def test_one_mask_per_loss_for_the_whole_batch_and_all_channels():
    mask = sample_mask(CONFIG.mask, STEPS, SIZE, torch.Generator().manual_seed(1), "cpu")
    mlr, batch = make(mask=mask), make_batch()
    calls = []
    mlr.mask = lambda: calls.append(1) or mask
    loss_of(mlr, batch)
    assert len(calls) == 1
    masked = mlr.encoder.seen.unflatten(0, (STEPS, BATCH))
    hidden = mask[0].repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)  # [T, H, W], frames hold no zero
    for b in range(BATCH):
        for channel in range(CHANNELS):
            assert (masked[:, b, channel] == 0).equal(hidden)


def test_each_branch_sees_its_own_frames_in_its_own_view():
    batch, given = make_batch(), {}

    def view(name, factor):
        def augment(frames):
            given[name] = frames
            return frames.float() * factor

        return augment

    mlr = make(masked=view("masked", 2.0), target=view("target", 5.0))
    loss_of(mlr, batch)
    assert given["target"].equal(batch.frames)
    assert given["masked"].dtype == torch.uint8  # masked before it is augmented
    assert (given["masked"] == 0).any() and not (batch.frames == 0).any()
    assert mlr.encoder.seen.equal(given["masked"].flatten(0, 1).float() * 2 * CONFIG.masked_scale)
    assert mlr.targets["encoder"].seen.equal(batch.frames.flatten(0, 1).float() * 5)


def test_the_frames_and_the_shapes_may_change_in_the_view():
    size, mask = SIZE, sample_mask(CONFIG.mask, STEPS, SIZE + 4, torch.Generator().manual_seed(1), "cpu")

    def crop(frames):
        return frames[..., 2 : 2 + size, 2 : 2 + size].float()

    batch = make_batch()
    batch.frames = torch.randint(1, 256, (STEPS, BATCH, CHANNELS, size + 4, size + 4), dtype=torch.uint8)
    loss, metrics = loss_of(make(mask=mask, masked=crop, target=crop), batch)
    assert loss.shape == (STEPS, BATCH)
    assert all(torch.isfinite(metric) for metric in metrics.values())


def test_metrics():
    mask = torch.zeros(1, STEPS, 3, 3, dtype=torch.bool)
    mask[:, 0] = True  # all of step 0
    mask[:, 1, 0] = True  # a third of step 1
    mlr, batch = disturbed(make(mask=mask)), make_batch()
    with torch.no_grad():
        target_encoder = mlr.targets["encoder"].linear
        target_encoder.weight[:3] = 0
        target_encoder.bias[:3] = torch.tensor([-1.0, 0.0, 1.0])  # always 0, always 0, always 1
    loss, metrics = loss_of(mlr, batch)
    assert all(metric.ndim == 0 for metric in metrics.values())

    cosine = (1 - loss / 2).mean(dim=1)
    hidden = (cosine[0] + cosine[1] / 3) / (4 / 3)
    visible = (cosine[1] * 2 / 3 + cosine[2] + cosine[3]) / (8 / 3)
    torch.testing.assert_close(metrics["cosine_hidden"], hidden.detach())
    torch.testing.assert_close(metrics["cosine_visible"], visible.detach())

    latent = mlr.targets["encoder"](batch.frames.flatten(0, 1).float()).numpy()
    dead = sum(all(value == 0 for value in column) for column in latent.T)
    assert 2 <= dead < DIM
    assert metrics["dead_units"].item() == pytest.approx(dead / DIM)
    assert metrics["latent_spread"].item() == pytest.approx(latent.std(axis=0).mean(), rel=1e-5)
    shown = measure_agreement(mlr, batch, mask)  # encodes another clip's frames, where the metric takes other targets
    assert metrics["cosine_margin"].item() == pytest.approx((shown.own - shown.other).mean(), abs=1e-6)
    assert abs(metrics["cosine_margin"]) > 1e-3


@pytest.mark.parametrize("value", [False, True])
def test_metrics_are_finite_when_nothing_or_everything_is_hidden(value):
    mask = torch.full((1, STEPS, 3, 3), value)
    _, metrics = loss_of(make(mask=mask), make_batch())
    assert all(torch.isfinite(metric) for metric in metrics.values())
    assert metrics["cosine_hidden" if not value else "cosine_visible"] == 0


def test_targets_move_only_when_they_are_told_to():
    mlr = disturbed(make())
    before = [parameter.clone() for parameter in mlr.targets.parameters()]
    online = [*mlr.encoder.parameters(), *mlr.projector.parameters()]
    loss_of(mlr, make_batch())[0].mean().backward()
    assert all(parameter.equal(old) for parameter, old in zip(mlr.targets.parameters(), before, strict=True))
    mlr.update_targets()
    for parameter, old, new in zip(mlr.targets.parameters(), before, online, strict=True):
        torch.testing.assert_close(parameter, 0.75 * old + 0.25 * new.detach())


def test_targets_start_as_copies():
    mlr = make()
    online = [*mlr.encoder.parameters(), *mlr.projector.parameters()]
    for target, parameter in zip(mlr.targets.parameters(), online, strict=True):
        assert target.equal(parameter) and target.data_ptr() != parameter.data_ptr()


def test_fields():
    assert make().fields == ("frames", "actions")
    assert make(replace(CONFIG, reward_weight=1.0)).fields == ("frames", "actions", "rewards")


# Ablations


def without_blocks(config=CONFIG, **changes):
    """A configuration whose decoder only adds the positions, so that a loss can be written down in a line or two."""
    return replace(config, decoder=replace(config.decoder, depth=0), **changes)


def latents(linear, frames):
    """[T, B, D] of frames [T, B, C, H, W], as `Encoder` computes them."""
    return (frames.flatten(2).to(linear.weight.dtype) / 255 @ linear.weight.T + linear.bias).relu()


def masked_frames(frames, mask):
    hidden = mask[0].repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)  # [T, H, W], cells of 2 x 2
    return frames * hidden.logical_not()[:, None, None]


@pytest.mark.parametrize("depth", [0, 2])
@pytest.mark.parametrize("action_tokens", [True, False])
def test_an_action_embedding_exists_only_where_actions_reach_the_states(depth, action_tokens):
    config = replace(CONFIG, action_tokens=action_tokens, decoder=replace(CONFIG.decoder, depth=depth))
    mlr, batch = make(config), make_batch()
    reads = depth > 0 and action_tokens
    assert ("action_embedding" in mlr.owned) == ("actions" in mlr.fields) == reads
    other = make_batch()
    other.actions = (batch.actions + 1) % ACTIONS
    assert loss_of(mlr, batch)[0].equal(loss_of(mlr, other)[0]) != reads
    if not reads:
        del batch.actions  # not even looked at
        loss_of(mlr, batch)


def test_squared_distance_is_the_mean_over_the_raw_vectors(double):
    mask = sample_mask(CONFIG.mask, STEPS, SIZE, torch.Generator().manual_seed(1), "cpu")
    config = without_blocks(distance="mse", distance_scale=9.0, norm_floor=100.0)
    mlr, batch = disturbed(make(config, mask)), make_batch()
    loss, metrics = loss_of(mlr, batch)
    decoded = latents(mlr.encoder.linear, masked_frames(batch.frames, mask) * CONFIG.masked_scale)
    decoded = decoded + mlr.owned["decoder"].positions[:, None]
    prediction = mlr.owned["predictor"](mlr.projector(decoded))
    target = mlr.targets["projector"](latents(mlr.targets["encoder"].linear, batch.frames))
    expected = ((prediction - target) ** 2).sum(-1) / PROJECTION
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
    assert set(metrics) == {"error_hidden", "error_visible", "cosine_margin", "latent_spread", "dead_units"}
    share = mask[0].double().mean(dim=(-2, -1))
    hidden = (expected.mean(1) * share).sum() / share.sum()
    torch.testing.assert_close(metrics["error_hidden"].double(), hidden.detach(), rtol=1e-6, atol=0)


def test_heads_that_are_left_out_are_identities():
    config = without_blocks()
    mask = sample_mask(config.mask, STEPS, SIZE, torch.Generator().manual_seed(1), "cpu")
    mlr, batch = disturbed(make(config, mask, predictor=nn.Identity(), projector=nn.Identity())), make_batch()
    loss, _ = loss_of(mlr, batch)
    decoded = latents(mlr.encoder.linear, masked_frames(batch.frames, mask) * CONFIG.masked_scale)
    decoded = decoded + mlr.owned["decoder"].positions[:, None]
    target = latents(mlr.targets["encoder"].linear, batch.frames)
    expected = 2 - 2 * torch.cosine_similarity(decoded, target, dim=-1)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    assert owned_parameters(mlr) == []
    mlr.update_targets()


def test_without_a_mask_nothing_is_hidden(monkeypatch):
    monkeypatch.setattr("mlr.objective.hide", lambda *_: pytest.fail("something was hidden"))
    mlr, batch = make(replace(CONFIG, mask=replace(CONFIG.mask, strategy="none"))), make_batch()
    _, metrics = loss_of(mlr, batch)
    assert mlr.encoder.seen.equal(batch.frames.flatten(0, 1).float() * CONFIG.masked_scale)
    assert "cosine_visible" in metrics and "cosine_hidden" not in metrics


def test_a_mask_of_features_leaves_the_pixels_and_goes_to_the_online_encoder_alone():
    class StageEncoder(Encoder):
        given = ()

        def forward(self, pixels, *stage_masks):
            self.given = stage_masks
            return super().forward(pixels)

    config = replace(CONFIG, mask=replace(CONFIG.mask, space="feature", stage="conv7"))
    mask = sample_mask(config.mask, STEPS, SIZE, torch.Generator().manual_seed(1), "cpu")
    mlr, batch = make(config, mask, encoder=StageEncoder()), make_batch()
    loss_of(mlr, batch)
    assert mlr.encoder.seen.equal(batch.frames.flatten(0, 1).float() * CONFIG.masked_scale)
    (stage_mask,) = mlr.encoder.given
    assert stage_mask.stage == "conv7" and stage_mask.mask is mask
    assert mlr.targets["encoder"].given == ()


def test_reward_prediction_is_a_squared_error_of_symlog_rewards_beside_the_loss():
    batch = make_batch()
    batch.rewards = torch.tensor([-3.0, 0.0, 1.0])[torch.randint(0, 3, (STEPS, BATCH))]
    mask = sample_mask(CONFIG.mask, STEPS, SIZE, torch.Generator().manual_seed(1), "cpu")
    plain, with_head = (make(replace(CONFIG, reward_weight=weight), mask) for weight in (0.0, 0.5))
    decoded = []
    with_head.owned["decoder"].register_forward_hook(lambda module, inputs, output: decoded.append(output))
    loss, metrics = loss_of(with_head, batch)
    head = with_head.owned["reward_head"]
    prediction = (decoded[0].transpose(0, 1) * head.weight[0]).sum(-1) + head.bias
    target = torch.tensor([[math.copysign(math.log(1 + abs(r)), r) for r in row] for row in batch.rewards.tolist()])
    error = (prediction - target) ** 2
    assert target.min() < -1.3 and target.max() > 0.6
    torch.testing.assert_close(loss, loss_of(plain, batch)[0] + 0.5 * error, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(metrics["reward_loss"], error.mean().detach(), rtol=1e-5, atol=1e-6)
    loss.mean().backward()
    assert head.weight.grad.abs().max() > 0
    assert {id(p) for p in head.parameters()} <= {id(p) for p in owned_parameters(with_head)}
    assert set(plain.owned) == {"decoder", "predictor", "action_embedding"}


def make_pixel(config, mask, view, frame_channels=1, size=SIZE):
    torch.manual_seed(0)
    return PixelMLR(
        config,
        frame_channels=frame_channels,
        encoder=Encoder(),
        projector=nn.Identity(),
        action_embedding=ActionEmbedding(),
        predictor=nn.Linear(DIM, frame_channels * size**2),
        latent_dim=DIM,
        mask=lambda: mask,
        augment_masked=view,
        augment_target=lambda frames: pytest.fail("there is no target branch"),
    )


@pytest.mark.parametrize("frame_channels", [1, 2])
def test_the_pixel_target_is_the_whole_newest_frame_in_the_masked_branch_s_own_crop(double, frame_channels):
    """A view whose crop differs from image to image, drawn once a call."""
    big, offsets = SIZE + 3, torch.randint(0, 4, (STEPS, BATCH))
    mask = torch.rand(1, STEPS, 3, 3) < 0.5

    def crop(frames):
        cropped = torch.empty(*frames.shape[:-2], SIZE, SIZE)
        for t in range(STEPS):
            for b in range(BATCH):
                start = offsets[t, b]
                cropped[t, b] = frames[t, b, :, start : start + SIZE, start : start + SIZE]
        return cropped

    mlr = make_pixel(without_blocks(target="pixel"), mask, crop, frame_channels)
    batch = make_batch()
    batch.frames = torch.randint(1, 256, (STEPS, BATCH, CHANNELS, big, big), dtype=torch.uint8)
    loss, metrics = loss_of(mlr, batch)
    assert loss.shape == (STEPS, BATCH)
    hidden = mask[0].repeat_interleave(3, dim=-1).repeat_interleave(3, dim=-2)
    masked = crop(batch.frames * hidden.logical_not()[:, None, None])
    assert mlr.encoder.seen.equal(masked.flatten(0, 1) * CONFIG.masked_scale)
    decoded = latents(mlr.encoder.linear, masked * CONFIG.masked_scale) + mlr.owned["decoder"].positions[:, None]
    target = crop(batch.frames)[:, :, CHANNELS - frame_channels :].flatten(2) / 255
    expected = ((mlr.owned["predictor"](decoded) - target) ** 2).mean(-1)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-12)
    assert set(metrics) == {"error_hidden", "error_visible"}


def test_the_pixel_target_needs_no_momentum_copies():
    mask = sample_mask(CONFIG.mask, STEPS, SIZE, torch.Generator().manual_seed(1), "cpu")
    mlr, batch = make_pixel(replace(CONFIG, target="pixel"), mask, identity_view), make_batch()
    assert list(mlr.targets.parameters()) == []
    loss, _ = loss_of(mlr, batch)
    loss.mean().backward()
    mlr.update_targets()
    assert loss.dtype == torch.float32
    for parameter in [*mlr.encoder.parameters(), *owned_parameters(mlr)]:
        assert parameter.grad.abs().max() > 0
