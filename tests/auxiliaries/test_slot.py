"""What an agent gives to any auxiliary, and what it does with the answers. B batch, T time."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from auxiliaries import AUXILIARIES, slot
from auxiliaries.slot import Auxiliary, Group, Reads, Shared, loss_in_slices, whole_loss
from harness.config import ConfigError
from tests.conftest import AUXILIARIES_OF, make_config, make_dmcontrol_config
from tests.operations import fill, make_spaces
from tests.recipes import ATARI, DMCONTROL

CPU = torch.device("cpu")
SUITES = {"atari": (ATARI, make_config), "dmcontrol": (DMCONTROL, make_dmcontrol_config)}


class Probe(Auxiliary):
    """Regresses one number from what it reads, and keeps a record of every call."""

    def __init__(self, host, source="transitions", **settings):
        self.host, self.calls, self.targets = host, [], nn.ModuleDict()
        self.owned = nn.ModuleDict({"head": nn.Linear(host.facts.latent_dim, 1)})
        self.generators = host.generators("probe")
        self.reads = Reads(source, 2 if source == "windows" else 1, ("frames", "ended") if source == "windows" else ())
        self.groups = (Group("probe", list(self.owned.parameters()), clip=host.clip_norm),)
        vars(self).update(settings)

    def begin_update(self, step):
        self.calls.append(("begin", step))

    def draw(self, batch, shared):
        self.calls.append(("draw", batch, shared))
        return torch.rand(1, generator=self.generators["probe"])

    def loss(self, batch, shared, drawn, samples):
        self.calls.append(("loss", samples))
        pixels = shared.view[samples] if self.reads.source == "transitions" else batch.frames[0, samples].float()
        if pixels.shape[-1] != self.host.view_size:
            pixels = pixels[..., : self.host.view_size, : self.host.view_size]
        loss = (self.owned["head"](self.host.encoder(pixels)).squeeze(-1) - drawn).square()[None]  # [1, b]
        return {"loss": loss, "size": loss.detach().abs()}

    def update_targets(self):
        self.calls.append(("targets", [parameter.detach().clone() for parameter in self.owned.parameters()]))


def make(suite, make_probe, *overrides):
    """Agent with a probe in its slot, and a replay with something in it."""
    recipe, make_configuration = SUITES[suite]
    config = make_configuration("unused", *overrides)
    spaces = make_spaces(config)
    module = __import__(f"{suite}.method", fromlist=["make_auxiliary"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "make_auxiliary", lambda config: make_probe)
        agent = recipe.method.make_agent(config, spaces, CPU)
    replay = recipe.method.make_replay(config, spaces, CPU)
    fill(replay, config)
    return agent, replay


def kinds(agent):
    return [call[0] for call in agent.auxiliary.calls]


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("source", ["windows", "transitions"])
def test_an_update_asks_in_order_and_trains_what_the_groups_hold(suite, source):
    agent, replay = make(suite, lambda host: Probe(host, source))
    before = [parameter.detach().clone() for parameter in agent.auxiliary.owned.parameters()]
    metrics = agent.update(replay, 70, "update")
    assert kinds(agent) == ["begin", "draw", "loss", "targets"] and agent.auxiliary.calls[0] == ("begin", 70)
    assert all((a != b).any() for a, b in zip(before, agent.auxiliary.owned.parameters(), strict=True))
    assert {"aux/loss", "aux/size"} <= metrics.keys()
    batch = agent.auxiliary.calls[1][1]
    if source == "windows":
        assert batch.frames.shape[0] == batch.ended.shape[0] == 2


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("place", ["before_step", "after_step"])
def test_targets_move_where_the_auxiliary_says(suite, place):
    agent, replay = make(suite, lambda host: Probe(host, moves_targets=place))
    before = [parameter.detach().clone() for parameter in agent.auxiliary.owned.parameters()]
    agent.update(replay, 70, "update")
    (then,) = [call[1] for call in agent.auxiliary.calls if call[0] == "targets"]
    reference = before if place == "before_step" else list(agent.auxiliary.owned.parameters())
    assert all(torch.equal(a, b) for a, b in zip(then, reference, strict=True))


def test_rainbow_lends_its_view_its_latent_and_the_weights():
    agent, replay = make("atari", lambda host: Probe(host))
    agent.update(replay, 70, "update")
    _, batch, shared = agent.auxiliary.calls[1]
    torch.testing.assert_close(agent.encoder(shared.view).shape, shared.latent.shape)
    assert shared.latent.requires_grad and shared.weights is batch.weights


def test_sac_lends_its_view_and_the_critic_s_target_encoder():
    agent, replay = make("dmcontrol", lambda host: Probe(host))
    agent.update(replay, 70, "update")
    _, batch, shared = agent.auxiliary.calls[1]
    assert shared.target_encoder is agent.target_encoder and len(shared.view) == len(batch.action)


@pytest.mark.parametrize("place, ahead", [("after_critic", False), ("after_targets", True)])
def test_sac_s_auxiliary_steps_in_its_place(place, ahead):
    """The actor's first step comes between the two places."""
    agent, replay = make("dmcontrol", lambda host: Probe(host, when=place))
    actor = [parameter.detach().clone() for parameter in agent.actor.parameters()]
    seen = []
    draw = agent.auxiliary.draw
    agent.auxiliary.draw = lambda *given: seen.append(list(map(torch.clone, agent.actor.parameters()))) or draw(*given)
    agent.update(replay, 70, "update")
    assert all(torch.equal(a, b) for a, b in zip(actor, seen[0], strict=True)) != ahead


def test_a_joined_group_shares_the_rl_clip_and_optimiser():
    agent, replay = make("atari", lambda host: Probe(host, groups=()))
    alone = agent.update(replay, 70, "update")["grad_norm_encoder_head"]

    def joined(host):
        probe = Probe(host)
        probe.groups = (Group("probe", list(probe.owned.parameters()), joins="encoder_head"),)
        return probe

    agent, replay = make("atari", joined)
    together = agent.update(replay, 70, "update")["grad_norm_encoder_head"]
    assert list(agent.optimizers) == ["encoder_head"] and together > alone


@pytest.mark.parametrize("suite, settings, words", [
    ("atari", {"moves_targets": "with_targets"}, "moves_targets='with_targets' must be before_step or after_step"),
    ("atari", {"when": "after_actor"}, "when='after_actor' must be after_critic or after_targets"),
    ("dmcontrol", {"moves_targets": "after"}, "'after' must be before_step or after_step or with_targets"),
    ("dmcontrol", {"groups": (Group("probe", [], joins="critic"),)}, "joins='critic' must be left out"),
    ("atari", {"groups": (Group("probe", [], joins="head"),)}, "joins='head' must be encoder_head"),
])  # fmt: skip
def test_a_word_that_the_agent_does_not_know_is_refused(suite, settings, words):
    with pytest.raises(ConfigError, match=f"Probe: .*{words} in this agent"):
        make(suite, lambda host: Probe(host, **settings))


def test_groups_have_rates_and_decays_of_their_own():
    def two_rates(host):
        probe = Probe(host)
        encoder, owned = list(host.encoder.parameters()), list(probe.owned.parameters())
        probe.groups = (
            Group("encoder", encoder, rate_factor=0.5),
            Group("probe", owned, rate_factor=2.0, weight_decay=1e-3),
        )
        return probe

    agent, replay = make("dmcontrol", two_rates, "aux_optimizer.learning_rate=0.01", "aux_optimizer.warmup_start=1")
    metrics = agent.update(replay, 70, "update")
    groups = agent.optimizers["auxiliary"].param_groups
    assert [float(group["lr"]) for group in groups] == pytest.approx([0.005, 0.02])
    assert [group["weight_decay"] for group in groups] == [0, 1e-3]
    assert "aux/grad_norm" not in metrics  # no group is clipped


def test_slices_add_up_to_the_whole():
    class Mean(Auxiliary):
        def draw(self, batch, shared):
            return batch * 2

        def loss(self, batch, shared, drawn, samples):
            return {"loss": drawn[:, samples], "value": batch[:, samples]}

    auxiliary, batch, given = Mean(), torch.arange(6.0).reshape(2, 3).requires_grad_(), []
    slices = [slice(0, 2), slice(2, 3)]
    loss, metrics = loss_in_slices(auxiliary, batch, Shared(), slices, lambda loss: given.append(loss))
    whole, whole_metrics = whole_loss(auxiliary, batch, Shared())
    assert [part.shape[1] for part in given] == [2, 1]
    assert torch.equal(loss, whole) and not loss.requires_grad and whole.requires_grad
    assert metrics == whole_metrics == {"value": torch.tensor(2.5)}


@pytest.mark.parametrize("slices", [[slice(0, 2), slice(2, 5), slice(5, 6)], [slice(0, 6)]])
def test_samples_that_depend_on_each_other_pass_twice_with_the_gradient_of_the_whole(slices):
    class Contrast(Auxiliary):
        independent = False

        def __init__(self):
            self.layer, self.calls = nn.Linear(3, 2), []

        def draw(self, batch, shared):
            return torch.randn(len(batch), 3)

        def embed(self, batch, shared, drawn, samples):
            self.calls.append(len(batch[samples]))
            return self.layer(batch[samples]).tanh()

        @torch.no_grad()
        def embed_targets(self, batch, shared, drawn, samples):
            return self.layer(drawn[samples])

        def compare(self, embedded, targets):
            logits = embedded @ targets.T
            return {"loss": -logits.log_softmax(1).diagonal()[None], "size": logits.detach().abs()[None]}

    torch.manual_seed(0)
    auxiliary, batch, found = Contrast(), torch.randn(6, 3), []
    for in_slices in (True, False):
        torch.manual_seed(1)
        auxiliary.layer.zero_grad()
        auxiliary.calls = []
        if in_slices:
            loss, metrics = loss_in_slices(auxiliary, batch, Shared(), slices, lambda each: each.mean().backward())
            assert len(auxiliary.calls) == (1 if len(slices) == 1 else 2 * len(slices)) and not loss.requires_grad
        else:
            loss, metrics = whole_loss(auxiliary, batch, Shared())
            loss.mean().backward()
        found.append((loss.detach(), metrics["size"], *(p.grad.clone() for p in auxiliary.layer.parameters())))
    for ours, whole in zip(*found, strict=True):
        torch.testing.assert_close(ours, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("suite", SUITES)
def test_the_registry_says_what_an_auxiliary_reads(suite):
    recipe, make_configuration = SUITES[suite]
    for name in AUXILIARIES_OF[suite]:
        config = make_configuration("unused", f"auxiliary={name}")
        agent = recipe.method.make_agent(config, make_spaces(config), CPU)
        assert (agent.auxiliary.reads.source == "windows") == AUXILIARIES[name].windows


@pytest.mark.parametrize("suite", SUITES)
def test_an_auxiliary_s_state_is_in_the_agent_s_and_its_streams_are_its_own(suite):
    agent, replay = make(suite, lambda host: Probe(host))
    other, _ = make(suite, lambda host: Probe(host))
    agent.update(replay, 70, "update")
    other.load_state(agent.state())
    drawn = [each.auxiliary.generators["probe"].get_state() for each in (agent, other)]
    assert torch.equal(*drawn)
    assert all(map(torch.equal, agent.auxiliary.owned.parameters(), other.auxiliary.owned.parameters()))
    assert set(agent.generators.state()).isdisjoint({"probe", "mask"})
    assert len(list(agent.random_streams())) == len(list(agent.generators)) + 1


def test_a_baseline_holds_no_auxiliary():
    for recipe, make_configuration in SUITES.values():
        config = make_configuration("unused", "auxiliary=none")
        spaces = make_spaces(config)
        agent = recipe.method.make_agent(config, spaces, CPU)
        assert agent.auxiliary is None and not any("aux" in name for name in agent.optimizers)
        assert np.all([name != "auxiliary" or not value for name, value in agent.state().items()])


def test_what_the_slot_offers_is_frozen():
    with pytest.raises(AttributeError):
        Shared().view = 1
    assert replace(Shared(), latent=1).latent == 1 and slot.Auxiliary.weight == 1.0
