"""Resets of SAC: when they come, what they change and leave alone."""

import copy
import math

import pytest
import torch

from dmcontrol.config import ResetConfig
from dmcontrol.resets import number_due
from tests.conftest import make_dmcontrol_config
from tests.operations import fill, make_agent_and_replay, places
from tests.recipes import DMCONTROL

HEADS = {"encoder.latent", "actor", "q_heads", "target_encoder.latent", "target_q_heads"}


def test_when_resets_come():
    config = ResetConfig(25_000, "heads")
    assert [step for step in range(125_000) if number_due(config, step)] == [25_000, 50_000, 75_000, 100_000]
    assert number_due(config, 50_000) == 2 and number_due(ResetConfig(0, "all"), 9) == number_due(None, 9) == 0


@pytest.mark.parametrize("scope", ["heads", "all"])
@pytest.mark.parametrize("auxiliary", ["none", "mlr"])
def test_what_a_reset_changes_and_leaves(auxiliary, scope):
    settings = ("ladder=resets", "resets.every=62", f"resets.scope={scope}", f"auxiliary={auxiliary}")
    config = make_dmcontrol_config("unused", *settings)
    agent, replay = make_agent_and_replay(DMCONTROL, config, torch.device("cpu"))
    fill(replay, config)
    for step in (59, 60):
        agent.update(replay, step, "update")
    before, where = copy.deepcopy(agent.state()), places(agent, replay)
    assert agent.end_of_updates(61) == {} and agent.end_of_updates(62) == {"reset": 1}
    assert places(agent, replay) == where
    fresh, fresh_auxiliary = agent._draw("reset", 1)
    drawn, now = fresh.state_dict(), agent.state()
    for name, value in now["networks"].items():
        anew = scope == "all" or any(name.startswith(head) for head in HEADS)
        assert torch.equal(value, drawn[name] if anew else before["networks"][name]), name
    assert now["log_temperature"] == pytest.approx(math.log(agent.config.initial_temperature))
    convolutions = {id(weight) for weight in agent.encoder.convolutions.parameters()}
    for name in ("critic", "actor", "temperature"):
        for weight, entry in agent.optimizers[name].state.items():
            kept = scope == "heads" and id(weight) in convolutions
            assert entry["step"] == 2 * kept and bool(entry["exp_avg_sq"].any()) == kept
    if agent.auxiliary is not None:
        assert now["auxiliary_updates"] == (2, 0)[scope == "all"]
        owned = (before["auxiliary"]["owned"], fresh_auxiliary.owned.state_dict())[scope == "all"]
        assert all(torch.equal(value, owned[name]) for name, value in now["auxiliary"]["owned"].items())
        target, source = agent.auxiliary.targets["encoder"].latent, fresh_auxiliary.targets["encoder"].latent
        assert torch.equal(target.fc.weight, source.fc.weight)
    agent.update(replay, 63, "update")
