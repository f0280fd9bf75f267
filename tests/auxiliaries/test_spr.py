"""SPR and PlayVirtual on both agents: what they read, mask and draw, and what they leave alone."""

import math

import pytest
import torch
from torch import nn

from auxiliaries.playvirtual import ramp
from auxiliaries.slot import Shared
from recipes import COMMANDS
from tests.auxiliaries.test_slot import CPU, SUITES
from tests.operations import fill, make_agent_and_replay

NAMES = ("spr", "playvirtual")
ALL = slice(None)
PURPOSES = {  # streams that every auxiliary leaves alone; windows are drawn for some only
    "atari": ("sampling", "noise", "augmentation_rl", "augmentation_next_target", "augmentation_next_online"),
    "dmcontrol": ("sampling", "crop_obs", "crop_next_obs", "noise_target", "noise_actor"),
}


def make(suite, auxiliary, *overrides):
    recipe, make_configuration = SUITES[suite]
    config = make_configuration("unused", f"auxiliary={auxiliary}", *overrides)
    agent, replay = make_agent_and_replay(recipe, config, CPU)
    fill(replay, config)
    return agent, replay


def atari_batch(auxiliary, *overrides):
    """Agent, batch, and what the RL loss lends."""
    agent, replay = make("atari", auxiliary, "agent.batch_size=3", *overrides)
    batch = replay.sample(3, torch.Generator().manual_seed(1), 0.4, agent.auxiliary.reads)
    return agent, batch, Shared(latent=agent.encoder(batch.obs.float()), weights=batch.weights)


@pytest.mark.parametrize("auxiliary", NAMES)
def test_atari_s_prediction_starts_at_the_rl_loss_s_latent(auxiliary):
    agent, replay = make("atari", auxiliary)
    encoded, start = [], agent.auxiliary._start
    started = []
    agent.encoder.register_forward_hook(lambda module, inputs, output: encoded.append(output))
    agent.auxiliary._start = lambda *given: started.append(start(*given)) or started[-1]
    agent.update(replay, 60, "update")
    assert len(encoded) == 2  # of both next observations, and of obs
    assert torch.equal(started[0], encoded[1]) and started[0].requires_grad


@pytest.mark.parametrize("auxiliary", NAMES)
def test_steps_from_an_end_on_count_as_zeros(auxiliary):
    agent, batch, shared = atari_batch(auxiliary)
    spr, steps = agent.auxiliary, agent.auxiliary.config.steps
    spr.begin_update(10**6)
    batch.ended = torch.zeros(steps + 1, 3, dtype=torch.bool)
    drawn, distances, measure = spr.draw(batch, shared), [], spr._distance

    def measuring(*vectors):
        found = measure(*vectors)
        distances.append(found[0].detach())
        return found

    spr._distance = measuring
    whole = spr.loss(batch, shared, drawn, ALL)["loss"]
    batch.ended[2:, 1] = True  # sample 1 ends at step 2, sample 2 at its first
    batch.ended[:, 2] = True
    masked = spr.loss(batch, shared, drawn, ALL)["loss"]
    assert torch.equal(masked[0, 0], whole[0, 0]) and masked[0, 2] == 0
    scale = spr.config.weight if auxiliary == "playvirtual" else 1
    expected = whole[0, 1] - scale * distances[0][1:, 1].sum() / steps
    torch.testing.assert_close(masked[0, 1], expected)


@pytest.mark.parametrize("auxiliary", NAMES)
def test_the_margin_is_each_cosine_less_that_with_another_clip(auxiliary):
    agent, batch, shared = atari_batch(auxiliary)
    spr = agent.auxiliary
    drawn = spr.draw(batch, shared)
    values = spr.loss(batch, shared, drawn, ALL)
    predictions, targets = values["prediction"], values["target"]
    margins = [
        torch.cosine_similarity(predictions[step, clip], targets[step, clip], dim=0)
        - torch.cosine_similarity(predictions[step, clip], targets[step, clip - 1], dim=0)
        for step in range(spr.config.steps)
        for clip in range(3)
    ]
    torch.testing.assert_close(values["cosine"][1, 2], torch.cosine_similarity(predictions[1, 2], targets[1, 2], dim=0))
    torch.testing.assert_close(spr.metrics(values, drawn)["cosine_margin"], torch.stack(margins).mean())
    alone = {name: value[:, :1] for name, value in values.items()}
    assert "cosine_margin" not in spr.metrics(alone, drawn)


@pytest.mark.parametrize("length, exponent", [(100, 5.0), (10, 2.0)])
def test_the_ramp_of_the_cycle(length, exponent):
    values = [ramp(count, length, exponent) for count in range(length + 5)]
    assert values[0] == pytest.approx(math.exp(-exponent * (1 - 1 / length) ** 2))
    assert values[length // 2 - 1] == pytest.approx(math.exp(-exponent / 4))
    assert values == sorted(values) and values[length - 1 :] == [1.0] * 6


def test_the_ramp_counts_agent_steps_on_atari_and_environment_steps_on_dmcontrol():
    agent, _ = make("atari", "playvirtual")
    agent.auxiliary.begin_update(100)
    assert float(agent.auxiliary.ramp) == pytest.approx(ramp(100, 50_000, 5.0))
    agent, _ = make("dmcontrol", "playvirtual")
    agent.auxiliary.begin_update(100)
    repeat = agent.auxiliary.host.facts.action_repeat
    assert repeat > 1 and float(agent.auxiliary.ramp) == pytest.approx(ramp(100 * repeat, 50_000, 5.0))


def test_virtual_actions_are_uniform_and_fresh():
    agent, _ = make("atari", "playvirtual", "playvirtual.copies=2")
    actions = agent.auxiliary.draw_actions(50)
    count = agent.actions
    assert actions.shape == (2, 2 * count, 50) and not torch.equal(actions, agent.auxiliary.draw_actions(50))
    shares = torch.bincount(actions.flatten(), minlength=count) / actions.numel()
    torch.testing.assert_close(shares, torch.full((count,), 1 / count), rtol=0, atol=0.06)
    agent, _ = make("dmcontrol", "playvirtual")
    actions = agent.auxiliary.draw_actions(500)
    assert actions.shape == (2, 2, 500, agent.action_size) and actions.abs().max() <= 1
    assert actions.mean().abs() < 0.06 and actions.std() == pytest.approx(1 / math.sqrt(3), abs=0.03)


@pytest.mark.parametrize("auxiliary", NAMES)
def test_copies_start_equal_but_for_dmcontrol_s_target_projector(auxiliary):
    for suite in SUITES:
        agent, _ = make(suite, auxiliary)
        spr = agent.auxiliary
        assert equal(spr.targets["encoder"], agent.encoder)
        assert equal(spr.targets["projector"], spr.projector) == (suite == "atari")


def equal(*modules: nn.Module) -> bool:
    return all(map(torch.equal, *(module.parameters() for module in modules)))


@pytest.mark.parametrize("auxiliary, models", [("spr", ["transition"]), ("playvirtual", ["transition", "backward"])])
def test_each_model_on_atari_has_a_clip_of_its_own_and_the_predictor_none(auxiliary, models):
    agent, _ = make("atari", auxiliary)
    groups = {group.name: group for group in agent.auxiliary.groups}
    assert list(groups) == [*models, "unclipped"]
    assert [groups[name].clip for name in groups] == [agent.config.clip_norm] * len(models) + [None]
    assert set(groups["unclipped"].parameters) == set(agent.auxiliary.owned["predictor"].parameters())
    held = [parameter for group in groups.values() for parameter in group.parameters]
    assert set(held) == set(agent.auxiliary.owned.parameters()) and len(held) == len(set(held))


def test_two_adams_on_one_gradient_are_one_with_the_sum_of_their_rates():
    """The release steps the encoder with two optimisers; here it has a rate of its own in one."""
    torch.manual_seed(0)
    start = [torch.randn(20, dtype=torch.float64) for _ in range(2)]
    one, two = ([nn.Parameter(values.clone()) for values in start] for _ in range(2))
    (encoder, rest), (encoder_too, rest_too) = one, two
    groups = [{"params": [encoder], "lr": 2 * 5e-4}, {"params": [rest], "lr": 5e-4}]
    ours = [torch.optim.Adam(groups)]
    released = [torch.optim.Adam([encoder_too], lr=5e-4), torch.optim.Adam([encoder_too, rest_too], lr=5e-4)]
    for _ in range(5):
        gradients = [torch.randn(20, dtype=torch.float64) for _ in range(2)]
        for parameters, optimizers in ((one, ours), (two, released)):
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient.clone()
            for optimizer in optimizers:
                optimizer.step()
    for ours_now, theirs in zip(one, two, strict=True):
        torch.testing.assert_close(ours_now, theirs, rtol=1e-12, atol=0)


def test_the_original_s_encoder_has_twice_the_rate_of_the_rest():
    for name in NAMES:
        agent, _ = make("dmcontrol", name, f"+original={name}")
        encoder, owned = agent.auxiliary.groups
        assert (encoder.rate_factor, owned.rate_factor) == (2.0, 1.0)
        assert set(encoder.parameters) == set(agent.encoder.parameters())


@pytest.mark.parametrize("name, sigma, window", [("spr", 0.5, 6), ("playvirtual", 0.1, 10)])
def test_an_original_agent_on_atari_is_its_exceptions_and_brings_its_auxiliary(name, sigma, window):
    original = COMMANDS["atari"].resolve(["game=pong", f"+original={name}"])
    same = COMMANDS["atari"].resolve(["game=pong", f"auxiliary={name}"])
    assert original.auxiliary == name
    assert (original.agent.noisy_sigma0, original.replay.window) == (sigma, window)
    assert original.auxiliary_section == same.auxiliary_section and original.loop == same.loop


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("auxiliary", NAMES)
def test_other_streams_do_not_notice(suite, auxiliary):
    recipe, make_configuration = SUITES[suite]
    states = []
    for name in ("none", auxiliary):
        config = make_configuration("unused", f"auxiliary={name}")
        agent, replay = make_agent_and_replay(recipe, config, CPU)
        fill(replay, config)
        agent.update(replay, 60, "update")
        states.append([agent.generators[purpose].get_state() for purpose in PURPOSES[suite]])
    assert all(map(torch.equal, *states))
