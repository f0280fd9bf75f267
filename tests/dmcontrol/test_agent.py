import contextlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dmcontrol import losses
from dmcontrol.agent import TrainedAgent
from dmcontrol.replay import TransitionReplay
from harness.config import ConfigError
from harness.schedule import ReplayRatio
from harness.weights import write_weights
from tests.conftest import AUXILIARIES_OF, make_dmcontrol_config
from tests.golden.check import DATA, assert_all
from tests.golden.dmcontrol_e import replay_e
from tests.golden.dmcontrol_g import replay_g
from tests.golden.dmcontrol_h import replay_h
from tests.operations import make_agent_and_replay
from tests.recipes import DMCONTROL

CPU, ACTIONS = torch.device("cpu"), 1


def test_objective_matches_the_reference():
    assert_all(replay_e(DATA / "dmcontrol"))


def test_losses_and_acting_match_the_reference():
    assert_all(replay_g(DATA / "dmcontrol"))


def test_whole_updates_match_the_reference():
    assert_all(replay_h(DATA / "dmcontrol"))


CONFIG = make_dmcontrol_config("unused")


def make_agent(*overrides):
    return make_agent_and_replay(DMCONTROL, make_dmcontrol_config("unused", *overrides), CPU)[0]


def filled_replay(steps=40):
    """Random frames in episodes of 20 steps."""
    size, stack = CONFIG.environment.image_size, CONFIG.environment.frame_stack
    replay = TransitionReplay(100, CONFIG.replay.window, (3, size, size), stack, ACTIONS, CPU, min_episode=20)
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (steps + 1, 3 * stack, size, size), dtype=np.uint8)
    for step in range(steps):
        action = rng.uniform(-1, 1, ACTIONS).astype(np.float32)
        replay.begin_step()
        end = step % 20 == 19
        replay.store(frames[step], action, float(rng.random()), end and step > 20, end, frames[step + 1], {})
    return replay


def weights(*modules):
    return [parameter.detach().clone() for module in modules for parameter in module.parameters()]


def same(before, after):
    return all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def random_pixels(agent, count=3):
    size = agent.config.crop_size
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 9, size, size), dtype=torch.uint8, generator=generator)


# Initial weights


def test_released_redraws_what_the_auxiliary_touches():
    agent, without = make_agent("fidelity=released"), make_agent("fidelity=released", "auxiliary=none")
    targets, std = agent.auxiliary.targets, CONFIG.aux_networks.init_std
    redrawn = [
        agent.encoder.latent.fc.weight,
        targets["encoder"].latent.fc.weight,
        agent.auxiliary.owned["projector"][0].weight,
        targets["projector"][0].weight,
        agent.auxiliary.owned["decoder"].blocks[0].qkv.weight,
    ]
    for index, weight in enumerate(redrawn):
        assert weight.abs().max() <= std and weight.std() > 0.4 * std
        assert not any(weight.shape == other.shape and torch.equal(weight, other) for other in redrawn[:index])
    # The critic's target was copied before, and nothing else differs from a run without the auxiliary.
    assert same(weights(without.encoder), weights(agent.target_encoder))
    assert same(weights(without.encoder.convolutions), weights(agent.encoder.convolutions))
    assert same(weights(without.actor, without.q_heads), weights(agent.actor, agent.q_heads))
    assert same(weights(agent.encoder.convolutions), weights(targets["encoder"].convolutions))


def test_paper_starts_from_copies():
    agent, without = make_agent("fidelity=paper"), make_agent("fidelity=paper", "auxiliary=none")
    targets = agent.auxiliary.targets
    assert same(weights(without.encoder), weights(agent.encoder))
    assert same(weights(agent.encoder), weights(targets["encoder"]))
    assert same(weights(agent.auxiliary.owned["projector"]), weights(targets["projector"]))
    assert agent.auxiliary.owned["projector"][0].weight.abs().max() <= CONFIG.aux_networks.init_std


def test_without_the_auxiliary_everything_is_orthogonal():
    agent = make_agent("auxiliary=none")
    for latent in (agent.encoder.latent, agent.actor.latent):
        weight = latent.fc.weight
        torch.testing.assert_close(weight @ weight.T, torch.eye(len(weight)), rtol=0, atol=1e-5)
    assert same(weights(agent.encoder, agent.q_heads), weights(agent.target_encoder, agent.target_q_heads))
    assert agent.log_temperature.dtype == torch.float64
    assert agent.log_temperature.exp().item() == pytest.approx(0.1)


# Ties and exact savings


def test_the_actor_s_loss_stops_after_the_convolutions():
    agent = make_agent()
    q, log_prob = agent.q_of_policy(random_pixels(agent))
    loss = losses.actor_loss(q, log_prob, torch.tensor(0.1))
    parameters = [*agent.encoder.convolutions.parameters(), *agent.actor.parameters()]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    convolutions = len(list(agent.encoder.convolutions.parameters()))
    assert all(gradient is None for gradient in gradients[:convolutions])
    assert all(gradient is not None for gradient in gradients[convolutions:])


def test_one_convolution_pass_equals_two():
    agent = make_agent()
    pixels, convolutions, passes = random_pixels(agent), agent.encoder.convolutions, []
    noise = torch.randn(len(pixels), ACTIONS)
    agent._noise = lambda like, purpose: noise
    hook = convolutions.register_forward_hook(lambda *_: passes.append(1))
    q, log_prob = agent.q_of_policy(pixels)
    hook.remove()
    assert len(passes) == 1
    losses.actor_loss(q, log_prob, torch.tensor(0.1)).backward()
    shared = [parameter.grad.clone() for parameter in agent.actor.parameters()]
    agent.networks.zero_grad()
    mean, log_std = agent.actor(convolutions(pixels).detach())
    action, log_prob = losses.squashed_sample(mean, log_std, noise, CONFIG.agent.log_prob_floor)
    q = agent.q_heads(agent.encoder.latent(convolutions(pixels).detach()), action)
    losses.actor_loss(q, log_prob, torch.tensor(0.1)).backward()
    assert same(shared, [parameter.grad for parameter in agent.actor.parameters()])


def test_the_critic_trains_the_encoder_and_no_target():
    agent, replay = make_agent("auxiliary=none"), filled_replay()
    batch = replay.sample(4, torch.Generator())
    pixels = random_pixels(agent, 4)
    q, target = agent.q(pixels, batch.action), agent.q_target(batch, pixels)
    assert not target.requires_grad
    losses.critic_loss(q, target).backward()
    assert all(parameter.grad is not None for parameter in agent.encoder.parameters())
    assert all(parameter.grad is None for parameter in agent.actor.parameters())
    assert agent.encoder.convolutions.stages["conv1"][0].weight.grad.any()


def test_two_adams_step_the_encoder_with_moments_of_their_own():
    agent = make_agent()
    agent.update(filled_replay(), 1, "update")
    weight = agent.encoder.latent.fc.weight
    moments = [agent.optimizers[name].state[weight]["exp_avg"] for name in ("critic", "auxiliary")]
    assert moments[0].any() and moments[1].any() and not torch.equal(*moments)
    trained = agent.trained_parameters()
    assert len(trained) == len(set(trained))
    optimised = {
        parameter for module in (agent.encoder, agent.actor, agent.q_heads) for parameter in module.parameters()
    }
    optimised |= {*agent.auxiliary.owned.parameters(), agent.log_temperature}
    assert set(trained) == optimised


class Still:
    """An optimiser's stand-in that keeps the gradients it is given and moves nothing."""

    def __init__(self, optimizer):
        self.param_groups = optimizer.param_groups
        self.zero_grad = optimizer.zero_grad
        self.grad_scale = torch.ones(())
        self.shadows = ()

    def step(self):
        self.gradients = [parameter.grad.clone() for group in self.param_groups for parameter in group["params"]]


SLICES = ("agent.batch_size=12", "aux_optimizer.batch_size=3", "aux_optimizer.clip_norm=1e9")


def update_in_slices(monkeypatch, size, *overrides, mode=contextlib.nullcontext):
    """Metrics and gradients of an update whose images pass through the encoder `size` at a time."""
    monkeypatch.setattr("dmcontrol.agent.CPU_SLICE", size)
    agent = make_agent(*SLICES, *overrides)
    agent.optimizers = {name: Still(optimizer) for name, optimizer in agent.optimizers.items()}
    replay = filled_replay()
    with mode():
        metrics = agent.update_on_device(replay, True)
    return metrics, {name: optimizer.gradients for name, optimizer in agent.optimizers.items()}


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("auxiliary=none",),
        ("mlr.reward_weight=1", "mlr.mask.space=feature"),
        ("+ablation=pixel_target",),
        ("auxiliary=curl",),
        ("auxiliary=curl", "curl.hidden=5"),
        ("auxiliary=autoencoder",),
        ("agent.rl_views=2", "agent.rl_pad=3", "auxiliary=none"),
    ],
)
def test_slices_give_the_gradients_and_metrics_of_the_whole_batch(monkeypatch, overrides):
    """12 transitions as 8 and 4, 3 windows of 4 steps as 2 and 1."""
    metrics, gradients = update_in_slices(monkeypatch, 8, *overrides)
    whole_metrics, whole_gradients = update_in_slices(monkeypatch, 1000, *overrides)
    assert list(metrics) == list(whole_metrics) and gradients.keys() == whole_gradients.keys()
    for name, value in whole_metrics.items():
        torch.testing.assert_close(metrics[name], value, rtol=1e-4, atol=1e-6, msg=name)
    for name, whole in whole_gradients.items():
        for ours, theirs in zip(gradients[name], whole, strict=True):
            assert (ours - theirs).norm() <= 1e-4 * theirs.norm(), name


class LargestFloats(TorchDispatchMode):
    """Keeps the number of elements of the largest float tensor that an operation made."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.is_floating_point():
            LargestFloats.largest = max(LargestFloats.largest, result.numel())
        return result


@pytest.mark.parametrize("aux", ["none", *AUXILIARIES_OF["dmcontrol"]])
def test_a_whole_batch_is_never_pixels_in_floats(monkeypatch, aux):
    largest = []
    for size in (4, 1000):
        LargestFloats.largest = 0
        update_in_slices(monkeypatch, size, f"auxiliary={aux}", mode=LargestFloats)
        largest.append(LargestFloats.largest)
    assert largest[0] < 12 * 9 * 34**2 <= largest[1]  # 12 transitions, 12 frames in windows


# Cadence and schedules


def test_actor_and_targets_move_in_every_second_update_the_first_included():
    agent = make_agent()
    replay, auxiliary = filled_replay(), agent.auxiliary
    assert "actor_loss" in agent.update(replay, 30, "update")
    moved_together = (agent.actor, agent.target_encoder, agent.target_q_heads, *auxiliary.targets.values())
    before, temperature = weights(*moved_together), agent.log_temperature.item()
    online = weights(agent.encoder, agent.q_heads, auxiliary.owned["projector"])
    metrics = agent.update(replay, 31, "update")
    assert same(before, weights(*moved_together)) and agent.log_temperature.item() == temperature
    assert not same(online, weights(agent.encoder, agent.q_heads, auxiliary.owned["projector"]))
    assert {"actor_loss", "temperature", "temperature_loss", "entropy"}.isdisjoint(metrics)
    targets = [weights(module) for module in moved_together[1:]]
    metrics = agent.update(replay, 32, "update")
    assert {"actor_loss", "temperature", "temperature_loss", "entropy"} <= metrics.keys()
    assert not same(before, weights(*moved_together)) and agent.log_temperature.item() != temperature
    followed = [agent.encoder, agent.q_heads, agent.encoder, auxiliary.owned["projector"]]
    for old, target, source, tau in zip(targets, moved_together[1:], followed, (0.05, 0.01, 0.05, 0.05), strict=True):
        for start, after, ahead in zip(old, target.parameters(), source.parameters(), strict=True):
            torch.testing.assert_close(after, tau * ahead.detach() + (1 - tau) * start, rtol=0, atol=1e-6)


def test_the_auxiliary_s_rate_counts_its_own_updates():
    schedule = ("warmup_updates=2", "warmup_start=0.5", "learning_rate=0.01")
    agent = make_agent(*(f"aux_optimizer.{setting}" for setting in schedule))
    replay = filled_replay()
    rates = [agent.update(replay, step, "update")["aux/learning_rate"].item() for step in (90, 91, 92, 93)]
    assert rates == pytest.approx([0.005, 0.0075, 0.01, 0.01 * (2 / 3) ** 0.5])


def test_the_weight_scales_the_gradient_before_the_clip_and_not_the_metric():
    one, two = (make_agent(f"mlr.weight={weight}") for weight in (1, 2))
    first, second = (agent.update(filled_replay(), 1, "update") for agent in (one, two))
    assert first["aux/loss"].item() == second["aux/loss"].item()
    assert second["aux/grad_norm"].item() == pytest.approx(2 * first["aux/grad_norm"].item(), rel=1e-4)


@pytest.mark.parametrize(("ratio", "starts"), [(1, 30), (1, 31), (0.5, 30), (2, 31)])
def test_half_of_the_updates_move_the_actor_whatever_their_steps(ratio, starts):
    agent = make_agent()
    replay = filled_replay()
    steps = [step for step in range(starts, starts + 8) for _ in ReplayRatio(starts, ratio).due(step)]
    with_actor = ["actor_loss" in agent.update(replay, step, "update") for step in steps]
    assert with_actor == [index % 2 == 0 for index in range(len(steps))] and len(steps) == 8 * ratio


@pytest.mark.parametrize(("fidelity", "last"), [("released", 5), ("paper", 6)])
def test_crops_of_the_rl_batch(fidelity, last):
    agent = make_agent(f"fidelity={fidelity}")
    row, column = torch.meshgrid(torch.arange(40), torch.arange(40), indexing="ij")
    images = torch.stack((row, column)).byte().expand(400, 2, 40, 40)
    cropped = agent._cropped(images, agent.generators["crop_obs"])[:]
    assert cropped.shape == (400, 2, 34, 34)
    corners = cropped[:, :, 0, 0]
    assert torch.equal(cropped, corners[:, :, None, None] + images[:, :, :34, :34])  # slices, no intensity
    assert corners.unique(dim=0).shape == ((last + 1) ** 2, 2)
    assert not torch.equal(corners, agent._cropped(images, agent.generators["crop_next_obs"])[:][:, :, 0, 0])


# Acting


def observations(count=2):
    return np.random.default_rng(3).integers(0, 256, (count, 9, 40, 40), dtype=np.uint8)


def test_acting_is_uniform_first_and_sampled_later():
    agent = make_agent()
    starts, observation = CONFIG.loop.learning_starts, observations(1)[0]
    first = np.array([agent.act(observation, starts - 1, False)[0] for _ in range(300)])
    assert first.dtype == np.float32 and first.min() < -0.9 and first.max() > 0.9
    later = np.array([agent.act(observation, starts, False)[0] for _ in range(1000)])
    pixels = torch.from_numpy(observation[None, :, 3:37, 3:37])
    mean, log_std = agent.actor(agent.encoder.convolutions(pixels))
    unsquashed = np.arctanh(later.astype(np.float64))
    assert unsquashed.mean() == pytest.approx(mean.item(), abs=5 * log_std.exp().item() / 1000**0.5)
    assert unsquashed.std() == pytest.approx(log_std.exp().item(), rel=0.1)


def test_a_trained_agent_takes_the_mean_in_the_centre(tmp_path):
    agent = make_agent()
    agent.update(filled_replay(), 40, "update")
    path = tmp_path / "weights" / "000000001.safetensors"
    write_weights(agent.acting, path)
    trained, stacks = TrainedAgent(agent.config, CONFIG.observation_shape, path), observations()
    centre = torch.from_numpy(stacks[:, :, 3:37, 3:37])
    with torch.no_grad():
        mean, _ = agent.actor(agent.encoder.convolutions(centre))
        latents = agent.encoder(centre)
    actions = trained.act(stacks)
    assert actions.dtype == np.float32 and np.array_equal(actions, mean.tanh().numpy())
    assert torch.equal(trained.encoder(torch.from_numpy(stacks)), latents)
    assert latents.shape == (2, 16) and not any(p.requires_grad for p in trained.encoder.parameters())
    assert trained.action_size == ACTIONS


def test_damaged_weights_and_wrong_observations_are_refused(tmp_path):
    agent, path = make_agent(), tmp_path / "000000001.safetensors"
    write_weights(agent.acting, path)
    trained = TrainedAgent(agent.config, CONFIG.observation_shape, path)
    for wrong in (observations().astype(np.float32), observations()[:, :3], observations()[:, :, :34, :34]):
        with pytest.raises(ValueError, match="expected uint8"):
            trained.act(wrong)
    with pytest.raises(ConfigError, match="another configuration"):
        TrainedAgent(replace(agent.config, hidden=17), CONFIG.observation_shape, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ConfigError, match="damaged"):
        TrainedAgent(agent.config, CONFIG.observation_shape, path)
