"""Steps of the ladder, each against a slow reference: networks, target network, optimiser, priorities, exploration."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from atari.agent import linear_ramp
from atari.config import EncoderConfig, host_facts
from atari.impala import LOWEST, impala_stages, same_padding
from atari.networks import Encoder, make_networks
from harness.optimizers import adam_parameters, make_adam
from tests.atari.test_replay import make_replay, play, random_script
from tests.conftest import make_config
from tests.operations import fill, make_agent_and_replay
from tests.recipes import ATARI

CPU = torch.device("cpu")
SMALL = ("auxiliary=none", "agent.encoder.channels=[4,8,8]", "agent.hidden=16")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(1)


def make(*overrides):
    config = make_config("unused", *SMALL, *overrides)
    agent, replay = make_agent_and_replay(ATARI, config, CPU)
    fill(replay, config)
    return agent, replay


def values(module):
    return [parameter.detach().numpy().copy() for parameter in module.parameters()]


@pytest.mark.parametrize("ladder, numbers", [
    ("resets", {"resets": (20_000, 100_000, 0.8, 0.2, "shrink", "network")}),
    ("resets_hard", {"resets": (20_000, 100_000, 0.5, 0.5, "shrink", "network")}),
    ("resets_last_layer", {"resets": (20_000, 100_004, 0.8, 0.2, "shrink", "last_layers")}),
    ("replay_ratio_8", {"resets": (5_000, 100_000, 0.8, 0.2, "shrink", "network"), "ratio": 8.0}),
    ("annealing", {
        "resets": (20_000, 100_000, 0.8, 0.2, "shrink", "network"), "annealing": (10, 3, 0.97, 0.997, 10_000),
    }),
    ("target_ema", {"target": (0.005, "target", 1)}),
    ("no_noise", {"exploration": (False, 1999, 2001)}),
    ("adamw", {"optimizer": (0.1, None)}),
    ("one_hidden", {"head": ("shared", 2048, 1.0)}),
    ("priorities", {"priorities": ("cross_entropy", "max", 0.5, 0.5, 1e-10, True)}),
    ("sr_spr", {
        "resets": (20_000, 100_000, 0.8, 0.2, "shrink", "network"), "target": (0.005, "target", 1),
        "exploration": (False, 1999, 2001), "optimizer": (0.0, None), "head": ("shared", 512, 1.0),
        "init": "xavier", "window": 6, "auxiliary": "spr",
        "priorities": ("cross_entropy", "max", 0.5, 0.5, 1e-10, True),
    }),
    ("bbf", {
        "resets": (20_000, 100_000, 0.5, 0.5, "shrink", "network"), "target": (0.005, "target", 1),
        "exploration": (False, 1999, 2001), "head": ("shared", 2048, 1.0), "init": "xavier", "window": 6,
        "auxiliary": "spr",
        "priorities": ("cross_entropy", "max", 0.5, 0.5, 1e-10, True), "annealing": (10, 3, 0.97, 0.997, 10_000),
        "optimizer": (0.1, None),
    }),
])  # fmt: skip
def test_numbers_of_the_files(ladder, numbers):
    """Those of the released configurations, at full size; what a file does not name is the paper's agent."""
    paper, config = numbers_of("none"), numbers_of(ladder)
    assert config == paper | numbers


def numbers_of(ladder):
    config = make_config("unused", "preset=full", f"ladder={ladder}")
    agent, replay, resets = config.agent, config.replay, config.resets
    return {
        "resets": resets and tuple(vars(resets).values()),
        "ratio": config.loop.replay_ratio,
        "annealing": (
            agent.n_step_initial, agent.n_step, agent.discount_initial, agent.discount, agent.anneal_updates,
        ),
        "target": (agent.target_tau, agent.act_with, agent.next_views),
        "exploration": (agent.noisy, agent.epsilon_start, agent.epsilon_steps),
        "optimizer": (agent.weight_decay, agent.clip_norm),
        "head": (agent.head, agent.hidden, agent.head_gradient_scale),
        "init": agent.init,
        "window": replay.window,
        "priorities": (
            replay.priority, replay.new_priority, replay.beta_initial, replay.beta_final, replay.priority_eps,
            replay.stratified,
        ),
        "auxiliary": config.auxiliary,
    }  # fmt: skip


# Networks


@pytest.mark.parametrize("ladder, sides, latent", [
    ("none", [20, 9, 7], 3136), ("sr_spr", [21, 11, 11], 7744), ("impala", [42, 21, 11], 15_488),
])  # fmt: skip
def test_sides_of_the_maps(ladder, sides, latent):
    config = make_config("unused", "preset=full", f"ladder={ladder}", "auxiliary=none")
    facts = host_facts(config)
    assert (facts.map_sides, facts.latent_dim) == (sides, latent)
    with torch.device("meta"):
        encoder = Encoder(config.agent.encoder, 4, 84)
        assert encoder(torch.zeros(1, 4, 84, 84)).shape == (1, latent)


def test_padding_is_that_of_the_released_code():
    assert [same_padding(*each)[:2] for each in ((84, 8, 4), (21, 4, 2), (11, 3, 1))] == [(2, 2), (1, 2), (1, 1)]
    assert [same_padding(size, 3, 2)[:2] for size in (84, 42, 21)] == [(0, 1), (0, 1), (1, 1)]


def test_which_pixels_a_maximum_sees():
    """A one in row 2 of 84 reaches outputs 0 and 1, in row 1 output 0 alone."""
    config = EncoderConfig("impala", [1], [3], [2], padding="same", blocks=0)
    _, *pool, _ = next(impala_stages(config, 1, 84))
    for row, reached in ((2, [0, 1]), (1, [0]), (83, [41])):
        picture = torch.full((1, 1, 84, 84), -1.0)
        picture[0, 0, row] = 1.0
        rows = nn.Sequential(*pool)(picture)[0, 0, :, 0]
        assert (rows == 1).nonzero().flatten().tolist() == reached and (rows.shape[0], rows.min()) == (42, -1)
    assert pool[0].value == LOWEST


def test_a_residual_stage_by_hand():
    config = EncoderConfig("impala", [2, 3], [3, 3], [2, 2], padding="same", blocks=2)
    first, last = impala_stages(config, 1, 6)
    pixels = 255 * torch.rand(2, 1, 6, 6)
    convolution, pad, pool, *blocks = first
    expected = pool(pad(nn.functional.conv2d(pixels / 255, convolution.weight, convolution.bias, padding=1)))
    for block in blocks:
        relu_in, conv_in, relu, conv = block.layers
        expected = expected + conv(conv_in(expected.clamp(min=0)).clamp(min=0))
    torch.testing.assert_close(first(pixels), expected)
    assert last(expected).shape == (2, 3, 2, 2) and last(expected).min() >= 0 > first(pixels).min()


def test_a_shared_head_without_noise_by_hand():
    config = make_config("unused", *SMALL, "agent.head=shared", "agent.noisy=false", "agent.init=xavier").agent
    encoder, head = make_networks(config, 4, 84, 6)
    latent = torch.rand(3, encoder.latent_dim)
    w, b = values(head.hidden.mean)
    hidden = np.maximum(latent.numpy() @ w.T + b, 0)
    advantage = (hidden @ values(head.advantage_out)[0].T).reshape(3, 6, config.atoms)
    value = (hidden @ values(head.value_out)[0].T)[:, None]
    expected = value + advantage - advantage.mean(1, keepdims=True)
    found = head(latent, head.draw_noise(torch.Generator(), CPU))
    np.testing.assert_allclose(found.detach(), expected, atol=1e-5)
    assert torch.equal(found, head(latent, None)) and head.projector is head.hidden.mean
    assert not any("sigma" in name for name, _ in head.named_parameters())
    bound = (6 / sum(w.shape)) ** 0.5  # Glorot and Bengio's
    assert not b.any() and 0.98 * bound < np.abs(w).max() <= bound


# Target network


def test_the_target_network_follows_values_and_acts():
    agent, replay = make("ladder=target_ema")
    before = values(agent.target)
    agent.update(replay, 60, "update")
    for target, old, online in zip(values(agent.target), before, values(agent.networks), strict=True):
        np.testing.assert_allclose(target, 0.995 * old + 0.005 * online, atol=1e-7)
    assert agent.acting is agent.target
    stack = replay.sample(1, torch.Generator(), 0.4, None).obs[0].numpy()
    chosen = agent.act(stack, 1000, False)
    with torch.no_grad():
        for parameter in agent.networks.parameters():
            parameter.zero_()
    assert agent.act(stack, 1000, False) == chosen


def test_the_online_network_chooses_and_the_target_network_values():
    agent, replay = make("ladder=target_ema", "agent.noisy=false")
    batch = replay.sample(5, torch.Generator().manual_seed(1), 0.4, None)
    agent._augmented = lambda frames, *names: frames.float().repeat(len(names), 1, 1, 1)
    with torch.no_grad():
        for parameter in agent.target.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        online, target = (
            networks["head"](networks["encoder"](batch.next_obs.float()), None).softmax(-1).numpy()
            for networks in (agent.networks, agent.target)
        )
    support = np.linspace(-10, 10, agent.config.atoms)
    expected = np.zeros((5, agent.config.atoms))
    for number in range(5):
        action = (online[number] * support).sum(-1).argmax()
        for atom, share in zip(support, target[number, action], strict=True):
            bootstrap = 0.0 if batch.done[number] else agent.config.discount**agent.config.n_step
            place = (np.clip(float(batch.returns[number]) + bootstrap * atom, -10, 10) + 10) / (support[1] - support[0])
            low = int(min(np.floor(place), agent.config.atoms - 2))
            expected[number, low] += share * (1 - (place - low))
            expected[number, low + 1] += share * (place - low)
    np.testing.assert_allclose(agent._target(batch), expected, atol=1e-5)


def test_a_reset_of_the_target_network_has_a_draw_of_its_own_and_an_auxiliary_follows_it():
    agent, replay = make("ladder=target_ema", "auxiliary=spr", "spr.tau=0.005")
    agent._resets = make_config("unused", "preset=full", "ladder=resets").resets
    agent.update(replay, 60, "update")
    old = values(agent.target["encoder"])
    agent.end_of_updates(20_001)
    fresh = values(agent._draw("reset", 1, "target", alone=True)[0]["encoder"])
    for found, before, new in zip(values(agent.target["encoder"]), old, fresh, strict=True):
        np.testing.assert_allclose(found, 0.8 * before + 0.2 * new, atol=1e-7)
    assert not torch.equal(agent.head.value_out.mean.weight, agent.target["head"].value_out.mean.weight)
    followers = zip(values(agent.auxiliary.targets["encoder"]), values(agent.target["encoder"]), strict=True)
    assert all(np.array_equal(a, b) for a, b in followers)


# Optimiser


def test_decay_is_decoupled_and_spares_vectors():
    matrix, vector = (nn.Parameter(torch.rand(shape)) for shape in ((3, 2), (3,)))
    old = copy.deepcopy([matrix.detach().numpy(), vector.detach().numpy()])
    optimizer = make_adam([vector, matrix], 0.01, (0.9, 0.999), 1e-4, decoupled_decay=0.1)
    assert adam_parameters(optimizer)[0] is matrix
    matrix.grad, vector.grad = torch.rand(3, 2), torch.rand(3)
    optimizer.step()
    for parameter, before, decay in ((matrix, old[0], 0.1), (vector, old[1], 0.0)):
        gradient = parameter.grad.numpy()  # of the first step: both moments, corrected, are the gradient's
        expected = before * (1 - 0.01 * decay) - 0.01 * gradient / (np.abs(gradient) + 1e-4)
        np.testing.assert_allclose(parameter.detach(), expected, rtol=1e-5)


def test_all_of_bbf_decays_and_nothing_is_clipped():
    agent, replay = make("ladder=bbf", *SMALL[1:], "auxiliary=spr")
    metrics = agent.update(replay, 60, "update")
    assert not any("grad_norm" in name for name in metrics) and metrics["n_step"] == 10
    for optimizer in agent.optimizers.values():
        for group in optimizer.param_groups:
            assert all((parameter.ndim > 1) == (group["weight_decay"] == 0.1) for parameter in group["params"])


# Priorities and exploration


def test_priorities_are_cross_entropies_and_new_starts_take_the_largest():
    agent, replay = make("ladder=priorities")
    drawn = []
    sample, update = replay.sample, replay.update_priorities
    replay.sample = lambda *given: drawn.append(sample(*given)) or drawn[-1]
    replay.update_priorities = lambda indices, kl: drawn.append(kl) or update(indices, kl)
    metrics = agent.update(replay, 60, "update")
    batch, entropy = drawn
    assert metrics["beta"] == 0.5
    assert metrics["rl_loss"] == pytest.approx(float((entropy * batch.weights).mean()), rel=1e-5)
    first = {int(index): float(value) for index, value in zip(batch.indices.flip(0), entropy.flip(0), strict=True)}
    for index, value in first.items():
        assert replay.priorities.leaves[index] == pytest.approx(value**0.5, rel=1e-6)
    largest = max(1.0, float(entropy.max()) ** 0.5)
    assert replay.largest == pytest.approx(largest)
    replay.begin_step()
    assert replay.priorities.leaves[replay.steps_begun - 1 - replay.lag] == replay.largest
    other = make("ladder=priorities")[1]
    other.load_state(copy.deepcopy(replay.state()))
    assert other.largest == replay.largest


def test_strata():
    """Each share of the priorities gives one start, in random order; equal leaves make equal shares of the steps."""
    replay = make_replay(stratified=True)
    play(replay, random_script(0, 39))
    starts = replay.priorities.leaves.nonzero().flatten()
    count = len(starts) // 3
    replay.priorities.leaves[starts[3 * count :]] = 0
    indices = replay.sample(count, torch.Generator().manual_seed(0), 0.4, None).indices
    places = [starts.tolist().index(int(index)) // 3 for index in indices]
    assert sorted(places) == list(range(count)) != places


def test_epsilon_of_the_released_agents():
    agent = make_config("unused", "preset=full", "ladder=no_noise").agent
    ramp = (agent.epsilon_initial, agent.epsilon_final, agent.epsilon_start, agent.epsilon_steps)
    for step in (0, 1999, 2000, 3000, 3999, 4000, 9000):
        assert linear_ramp(step, *ramp) == pytest.approx(np.clip((4001 - (step + 1)) / 2001, 0, 1))
