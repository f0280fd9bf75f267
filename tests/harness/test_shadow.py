"""bfloat16 shadows of weights against autocast's own casts."""

import copy

import torch
from torch import nn

from harness.optimizers import adam_parameters, make_adam
from harness.shadow import ShadowedLinear, give_shadows, shadow_weights
from tests.conftest import make_config
from tests.operations import fill, make_agent_and_replay
from tests.recipes import ATARI


def make(shadowed, *overrides):
    config = make_config("unused", "precision=bf16", "agent.clip_norm=1e6", *overrides)  # so that no sum's order tells
    agent, replay = make_agent_and_replay(ATARI, config, torch.device("cpu"))
    fill(replay, config)
    if shadowed:
        give_shadows(layers(agent), agent.optimizers["decoder"])
    return agent, replay


def layers(agent):
    return [layer for layer in agent.auxiliary.owned.modules() if isinstance(layer, ShadowedLinear)]


def values(state):
    return dict(torch.utils._pytree.tree_flatten_with_path(state)[0])


def assert_equal(first, second):
    (first, second) = values(first), values(second)
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]) if isinstance(value, torch.Tensor) else value == second[key], key


def test_updates_round_where_autocast_does_and_checkpoints_hold_the_masters():
    """Bit for bit, also from a checkpoint of each other."""
    (plain, replay), (shadowed, other) = make(False), make(True)
    for _ in range(2):
        for _ in range(2):
            metrics = plain.update(replay, 60, "update")
            norm, found = "aux/grad_norm_decoder", shadowed.update(other, 60, "update")
            torch.testing.assert_close(found.pop(norm), metrics[norm], rtol=1e-6, atol=0)  # a sum in another order
            assert_equal({key: value for key, value in metrics.items() if key != norm}, found)
        assert_equal(plain.state(), shadowed.state())
        shadowed.load_state(copy.deepcopy(make(False, "seed=2")[0].state()))
        shadowed.load_state(copy.deepcopy(plain.state()))
    assert len(layers(shadowed)) == 8 and metrics["aux/grad_norm_decoder"] > 0
    for layer in layers(shadowed):
        assert torch.equal(layer.shadow, layer.weight.bfloat16()) and not torch.equal(layer.shadow, layer.weight)
        assert layer.shadow.grad.dtype == torch.bfloat16 and layer.weight.grad is None


def test_a_reset_reaches_the_shadows():
    agent, _ = make(True, "ladder=resets", "resets.every=31", "loop.learning_starts=30")
    before = layers(agent)[0].shadow.clone()
    assert agent.end_of_updates(32) == {"reset": 1} and not torch.equal(layers(agent)[0].shadow, before)
    assert all(torch.equal(layer.shadow, layer.weight.bfloat16()) for layer in layers(agent))


def test_shadows_are_given_where_one_pass_agrees_and_is_faster(monkeypatch):
    monkeypatch.setattr("harness.shadow.COMPARED_VALUES", 2**12)
    layer, plain = ShadowedLinear(4, 3), nn.Linear(4, 3)
    module = nn.ModuleList((layer, plain))

    def given(precision="bf16", faster=True, **settings):
        layer.shadow = None
        adam = make_adam(
            module.parameters(), **{"lr": 1e-3, "betas": (0.9, 0.99), "eps": 1e-8, "clipped": True} | settings
        )
        clock = iter((1.0, 2.0) if faster else (2.0, 1.0))
        reasons = shadow_weights(module, [adam], precision, lambda work: next(clock))
        assert (layer.shadow is None) == (not adam.shadows) and len(adam_parameters(adam)) == 4
        return layer.shadow is not None, list(reasons.values())

    assert given() == (True, [""])
    assert given(precision="tf32") == (False, [])
    assert given(faster=False) == (False, ["takes 2.00 times as long"])
    for further in ({"weight_decay": 0.1}, {"clipped": False}, {"lr": torch.tensor(1e-3)}):
        assert given(**further) == (False, [])
