"""CURL on both agents: keys, contrast, momentum copies, and what it leaves alone."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from auxiliaries.config import CURLConfig
from auxiliaries.curl import ContrastHead
from tests.auxiliaries.test_slot import CPU, SUITES
from tests.operations import fill, make_agent_and_replay


def make(suite, *overrides):
    recipe, make_configuration = SUITES[suite]
    config = make_configuration("unused", "auxiliary=curl", *overrides)
    agent, replay = make_agent_and_replay(recipe, config, CPU)
    fill(replay, config)
    return agent, replay


def recorded(agent):
    """Embeddings, targets and values of each comparison."""
    calls, compare = [], agent.auxiliary.compare

    def comparing(embedded, targets):
        values = compare(embedded, targets)
        weight = agent.auxiliary.owned["similarity"].weight.detach().clone()
        calls.append((embedded.detach().clone(), targets.clone(), weight, values["loss"].detach()))
        return values

    agent.auxiliary.compare = comparing
    return calls


@pytest.mark.parametrize("suite", SUITES)
def test_the_loss_is_the_cross_entropy_with_the_own_key(suite):
    agent, replay = make(suite, "agent.batch_size=5")
    calls = recorded(agent)
    metrics = agent.update(replay, 60, "update")
    ((anchors, keys, weight, loss),) = calls
    logits = torch.stack([torch.stack([a @ weight @ k for k in keys]) for a in anchors])
    expected = F.cross_entropy(agent.auxiliary.config.temperature * logits, torch.arange(5), reduction="none")
    torch.testing.assert_close(loss[0], expected, rtol=1e-4, atol=1e-4)
    hits = sum(int(row.argmax()) == place for place, row in enumerate(logits))
    assert metrics["aux/accuracy"].item() == pytest.approx(hits / 5)


def test_the_contrast_head_is_two_layers_with_plain_norms():
    head, latent = ContrastHead(6, CURLConfig(1.0, {}, 1.0, hidden=5, width=4, tau=0.1)), torch.randn(3, 6)
    norms = [nn.LayerNorm(width, elementwise_affine=False) for width in (5, 4)]
    layers = nn.Sequential(head.hidden, norms[0], nn.ReLU(), head.out, norms[1])
    torch.testing.assert_close(head(latent), layers(latent))
    for layer in (head.hidden, head.out):
        assert 0 <= layer.weight.min() and 0.5 < layer.weight.max() < 1 and not layer.bias.any()


def test_dmcontrol_s_keys_are_the_target_encoder_s_and_no_copy_is_owned():
    agent, replay = make("dmcontrol")
    assert not list(agent.auxiliary.targets.parameters()) and list(agent.auxiliary.owned) == ["similarity"]
    calls = recorded(agent)
    with torch.no_grad():
        for parameter in agent.target_encoder.parameters():
            parameter.zero_()
    agent.target_encoder.latent.ln.bias.data.fill_(2)
    agent._updates = 1  # no soft update
    agent.update(replay, 60, "update")
    assert (calls[0][1] == 2).all()


def test_released_rates_step_the_encoder_twice_as_far():
    agent, _ = make("dmcontrol", "+original=curl")
    encoder, owned = agent.auxiliary.groups
    assert (encoder.rate_factor, owned.rate_factor, encoder.clip, owned.clip) == (2.0, 1.0, None, None)
    assert set(encoder.parameters) == set(agent.encoder.parameters())


def test_atari_s_copies_follow_after_the_step_and_one_clip_holds_everything():
    agent, replay = make("atari", "curl.tau=0.25")
    auxiliary = agent.auxiliary
    assert list(agent.optimizers) == ["encoder_head"]
    before = [parameter.clone() for parameter in auxiliary.targets.parameters()]
    agent.update(replay, 60, "update")
    online = [*agent.encoder.parameters(), *auxiliary.head.parameters()]
    for start, after, ahead in zip(before, auxiliary.targets.parameters(), online, strict=True):
        torch.testing.assert_close(after, 0.75 * start + 0.25 * ahead, rtol=0, atol=1e-6)


def test_atari_s_anchors_are_the_rl_loss_s_latents_and_priorities_its_divergences():
    """Released, the batch's contrastive loss is in every priority (C1)."""
    agent, replay = make("atari", "curl.weight=0")
    other, _ = make("atari", "curl.weight=0")
    other.auxiliary = None
    batch = replay.sample(2, torch.Generator(), 0.4, agent.auxiliary.reads)
    seen, embed = [], agent.auxiliary.embed
    agent.auxiliary.embed = lambda batch, shared, *rest: seen.append(shared.latent) or embed(batch, shared, *rest)
    encoded = []
    agent.encoder.register_forward_hook(lambda module, inputs, outputs: encoded.append(outputs))
    kl, _ = agent.learn(batch)
    assert seen[0] is encoded[1] and len(encoded) == 2  # of both next observations, and of obs
    torch.testing.assert_close(kl, other.learn(batch)[0])


@pytest.mark.parametrize("suite", SUITES)
def test_other_streams_do_not_notice(suite):
    recipe, make_configuration = SUITES[suite]
    states = []
    for auxiliary in ("none", "curl"):
        config = make_configuration("unused", f"auxiliary={auxiliary}")
        agent, replay = make_agent_and_replay(recipe, config, CPU)
        fill(replay, config)
        agent.update(replay, 60, "update")
        states.append([generator.get_state() for generator in agent.generators])
    assert all(map(torch.equal, *states))
