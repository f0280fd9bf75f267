"""Resets: when they come, what they change and leave alone; tests/harness/test_resets.py has runs across one."""

import copy
import csv

import numpy as np
import pytest
import torch

from atari.agent import make_networks
from atari.config import ResetConfig
from atari.resets import number_due, shrink_and_perturb
from harness.report.curves import draw_run
from harness.run import run
from harness.seeding import derive_seed
from tests.conftest import make_config
from tests.operations import assert_same, fill, make_agent_and_replay, places
from tests.recipes import ATARI

CPU = torch.device("cpu")
OFTEN = ("ladder=resets", "resets.every=31", "loop.learning_starts=30")  # after the updates of steps 32 and 64


def test_when_resets_come():
    """By the closed form's worked table; the second column is that of a replay ratio of 8."""
    for every, yes, no in (
        (20_000, [20_001, 40_002, 60_003], [0, 19_999, 20_000, 20_002, 40_000, 80_004, 99_999]),
        (5_000, [5_001 * k for k in range(1, 19)], [95_019]),
    ):
        config = ResetConfig(every, 100_000, 0.8, 0.2, "shrink", "network")
        assert [number_due(config, step) for step in yes] == list(range(1, len(yes) + 1))
        assert not any(number_due(config, step) for step in no)
    assert number_due(ResetConfig(0, 100_000, 0.8, 0.2, "shrink", "network"), 1) == number_due(None, 20_001) == 0


def test_the_schedule_is_that_of_the_released_loop():
    """`next_reset` of the released agent, step by step, where its call t is this loop's iteration t - 1."""
    config, found, following = ResetConfig(7, 100, 0.8, 0.2, "shrink", "network"), [], 7 + 1
    for call in range(101):
        if call > following:
            following = 7 + call
            if following <= 100 + 1:
                found.append(call - 1)
    assert found == [step for step in range(100) if number_due(config, step)] and len(found) == 11


def test_shrinking_and_perturbing_is_exact():
    module, fresh = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    pairs = zip(weights(module), weights(fresh), strict=True)
    expected = [0.5 * old.numpy() + 0.5 * new.numpy() for old, new in pairs]
    shrink_and_perturb(module, fresh, 0.5, 0.5)
    assert all(np.array_equal(p.detach(), e) for p, e in zip(module.parameters(), expected, strict=True))


def agent_after_updates(*overrides):
    config = make_config("unused", *OFTEN, *overrides)
    agent, replay = make_agent_and_replay(ATARI, config, CPU)
    fill(replay, config)
    for step in (60, 61):
        agent.update(replay, step, "update")
    return agent, replay


def weights(module):
    return [parameter.detach().clone() for parameter in module.parameters()]


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


def adam_values(agent):
    optimizers = agent.state()["optimizers"].values()
    return [value.any() for optimizer in optimizers for entry in optimizer.values() for value in entry.values()]


@pytest.mark.parametrize("auxiliary", ["none", "mlr", "mlr +ablation=no_projector", "spr", "playvirtual", "curl"])
def test_what_a_reset_changes_and_leaves(auxiliary):
    agent, replay = agent_after_updates(*f"auxiliary={auxiliary}".split())
    before, where = copy.deepcopy(agent.state()), places(agent, replay)
    encoder, owned = weights(agent.encoder), agent.auxiliary and copy.deepcopy(agent.auxiliary.owned)
    random = torch.random.get_rng_state()
    assert agent.end_of_updates(32) == {"reset": 1} and agent.end_of_updates(33) == {}
    assert places(agent, replay) == where and torch.equal(torch.random.get_rng_state(), random)
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(1, "reset", 1, "online"))
        fresh, head = make_networks(agent.config, 4, 84, 6)
    mixed = [0.8 * old + 0.2 * new for old, new in zip(encoder, weights(fresh), strict=True)]
    for found, expected in zip(agent.encoder.parameters(), mixed, strict=True):
        torch.testing.assert_close(found.detach(), expected)
    assert same(weights(agent.head), weights(head))
    state = agent.state()
    assert not any(adam_values(agent))
    for name in ("noise", "previous_noise", "generators", "exploration"):
        assert_same({name: before[name]}, {name: state[name]})
    assert (before["cycle_updates"], state["cycle_updates"]) == (2, 0)
    if agent.auxiliary is None:
        return
    for name, module in agent.auxiliary.owned.items():
        new = weights(agent._draw("reset", 1, "online")[1].owned[name])
        share = (0, 1) if name in ("predictor", "similarity", "head") else (0.8, 0.2)
        for found, old, drawn in zip(weights(module), weights(owned[name]), new, strict=True):
            torch.testing.assert_close(found, share[0] * old + share[1] * drawn)
    targets = agent.auxiliary.targets
    assert same(weights(targets["encoder"]), weights(agent.encoder))
    if "projector" in targets and "no_projector" not in auxiliary:
        assert torch.equal(targets["projector"].value.weight, agent.head.value_hidden.mean.weight)
    agent.update(replay, 62, "update")


def test_another_reset_another_draw_and_again_the_same():
    heads = []
    for step in (32, 64, 32):
        agent, _ = agent_after_updates("auxiliary=none")
        agent.end_of_updates(step)
        heads.append(weights(agent.head))
    assert same(heads[0], heads[2]) and not same(heads[0], heads[1])


def test_last_layers_alone():
    agent, _ = agent_after_updates("ladder=resets_last_layer", "resets.none_after=120")
    kept = {name: value.clone() for name, value in agent.state()["networks"].items() if "_out" not in name}
    out, owned = weights(agent.head.advantage_out), weights(agent.auxiliary.owned)
    agent.end_of_updates(32)
    now = agent.state()["networks"]
    assert all(torch.equal(now[name], value) for name, value in kept.items())
    assert same(owned, weights(agent.auxiliary.owned)) and not same(out, weights(agent.head.advantage_out))
    assert not any(adam_values(agent))


@pytest.mark.parametrize("how", ["redraw", "keep"])
def test_the_auxiliary_s_modules_may_be_drawn_anew_or_kept(how):
    agent, _ = agent_after_updates(f"resets.auxiliary={how}")
    decoder, predictor = (weights(agent.auxiliary.owned[name]) for name in ("decoder", "predictor"))
    agent.end_of_updates(32)
    fresh = agent._draw("reset", 1, "online")[1]
    expected = decoder if how == "keep" else weights(fresh.owned["decoder"])
    assert same(weights(agent.auxiliary.owned["decoder"]), expected)
    assert not same(weights(agent.auxiliary.owned["predictor"]), predictor)


# Loops


def test_a_reset_is_a_row_and_a_mark_in_the_curve(tmp_path, monkeypatch):
    marks = []
    monkeypatch.setattr("harness.run.draw_run", draw_run)
    monkeypatch.setattr("matplotlib.axes.Axes.axvline", lambda axes, x, **style: marks.append((x, style["label"])))
    assert run(make_config(tmp_path / "run", *OFTEN, "auxiliary=none", "video=false"), ATARI) == 0
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    assert {row["agent_steps"]: row["event/reset"] for row in rows if row["event/reset"]} == {"33": "1", "65": "2"}
    assert {row["agent_steps"] for row in rows} >= {"20", "40", "120"}
    assert marks == [(33, "reset"), (65, None)]
