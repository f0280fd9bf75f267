"""Operations of an update: counted without values as in real updates, and by hand."""

import functools
from statistics import mean
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from harness import header
from harness.header import FEW_UPDATES, describe_cost
from harness.operations import built_on_meta, run_operations
from tests.conftest import AUXILIARIES_OF, make_config, make_dmcontrol_config
from tests.operations import fill, held, make_agent_and_replay, make_spaces
from tests.recipes import ATARI, DMCONTROL

CPU = torch.device("cpu")
RECIPES = {"atari": (ATARI, make_config), "dmcontrol": (DMCONTROL, make_dmcontrol_config)}
CASES = [(name, setting) for name in RECIPES for setting in ("auxiliary=none", "mlr.target=pixel")]
CASES += [(name, f"auxiliary={auxiliary}") for name in RECIPES for auxiliary in AUXILIARIES_OF[name]]
CASES += [
    ("dmcontrol", "agent.rl_views=2"),
    ("atari", "mlr.action_tokens=false"),
    ("dmcontrol", "mlr.decoder.depth=1"),
    ("dmcontrol", "agent.update_every=3"),
]


@functools.cache
def count(name, *settings):
    recipe, make_configuration = RECIPES[name]
    config = make_configuration("unused", *settings)
    return run_operations(recipe.method, config, make_spaces(config), {"update": 1})


@pytest.mark.parametrize("name, setting", CASES)
def test_the_count_is_that_of_real_updates(name, setting):
    """On a CPU, where images pass through an encoder in slices, over whole periods of the kinds of update."""
    recipe, make_configuration = RECIPES[name]
    config = make_configuration("unused", setting)
    agent, replay = make_agent_and_replay(recipe, config, CPU)
    fill(replay, config)
    counts = []
    for step in range(60, 66 if setting == "agent.update_every=3" else 62):
        with FlopCounterMode(display=False) as counter:
            agent.update(replay, step, "update")
        counts.append(counter.get_total_flops())
    assert count(name, setting) == mean(counts) > 0


# Multiply-adds of a full update on Atari, counted by hand: latents of D values, windows of T steps, batches of B.
D, T, B, ACTIONS = 3136, 16, 32, 6
CONVOLUTIONS = (4 * 32 * 8**2 * 20**2, 32 * 64 * 4**2 * 9**2, 64 * 64 * 3**2 * 7**2)
FORWARD = sum(CONVOLUTIONS)
TRAINED = 3 * FORWARD - CONVOLUTIONS[0]  # the input of the first layer needs no gradient
HEAD = 2 * 256 * (2 * D + (ACTIONS + 1) * 51)  # two layers a stream, each with mean and sigma weights


def attention(queries):
    """Scores of all tokens for each query, and the mixture of their values; the decoder's own width."""
    return 2 * queries * 2 * T * D


def test_a_full_update_on_atari_is_the_one_counted_by_hand():
    baseline = 2 * B * (TRAINED + 2 * FORWARD + (3 + 2) * HEAD)
    assert count("atari", "preset=full", "auxiliary=none") == pytest.approx(baseline, rel=1e-3)
    block = 2 * T * 8 * D**2  # four products of attention with weights, and an MLP twice as wide as the latent
    last = T * 8 * D**2  # queries, projection and MLP for the states alone; keys and values in their order of products
    distinct = 3 * (T * B - T * ACTIONS) * D**2  # the first block projects an action's token once a step
    decoder = B * (block + last) - distinct + B * (attention(2 * T) + attention(T))
    heads = B * T * (512 * D + 512**2)  # projector and predictor
    target = B * T * (FORWARD + 512 * D)
    mlr = 2 * (3 * (decoder + heads) + B * T * TRAINED + target)
    assert count("atari", "preset=full") == pytest.approx(baseline + mlr, rel=1e-3)


def test_a_full_update_on_dmcontrol_is_the_one_counted_by_hand():
    """3.66 TFLOP with a convolution pass of its own for the actor, in every second update; 3.6 times the Baseline."""
    task = "task=cheetah_run"
    sides = (41, 39, 37, 35)
    convolutions = sum(channels * 64 * 3**2 * side**2 for channels, side in zip((9, 64, 64, 64), sides, strict=True))
    shared_pass = 2 * 512 * convolutions / 2
    whole = count("dmcontrol", "preset=full", task) + shared_pass
    assert whole == pytest.approx(3.66e12, rel=0.01)
    baseline = count("dmcontrol", "preset=full", task, "auxiliary=none") + shared_pass
    assert whole / baseline == pytest.approx(3.6, rel=0.01)


@pytest.mark.parametrize("name", RECIPES)
def test_a_full_agent_takes_no_memory(name):
    recipe, make_configuration = RECIPES[name]
    config = make_configuration("unused", "preset=full")
    tensors = [value for value in held(built_on_meta(recipe.method, config, make_spaces(config))).values()
               if isinstance(value, torch.Tensor)]  # fmt: skip
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert sum(tensor.nbytes for tensor in tensors) > 1e9


@pytest.mark.parametrize("setting", ["precision=bf16", "augmentation.extra=[affine,blur]"])
def test_settings_of_precision_and_pictures_change_no_count(setting):
    assert count("atari", setting) == count("atari")


def test_an_update_that_reads_values_is_not_counted():
    class Agent:
        cycle, optimizers = ((),), {}

        def update_on_device(self, replay):
            return float(torch.zeros((), device="meta"))

    method = SimpleNamespace(make_agent=lambda *arguments: Agent(), make_replay=lambda *arguments: None)
    assert run_operations(method, make_config("unused"), None, {"update": 1}) is None


@pytest.mark.parametrize("updates, words", [
    (FEW_UPDATES, ""), (10**6, "cost         at least 4 hours"), (10**5, "23 minutes"), (10**8, "a GPU, or preset=cpu"),
])  # fmt: skip
def test_the_header_names_the_time_that_counted_operations_take(updates, words, monkeypatch):
    config = make_config("unused")
    spaces = make_spaces(config)
    environment = SimpleNamespace(observation_space=spaces.observation, action_space=spaces.action)
    monkeypatch.setattr(header, "cpu_flops_per_second", lambda: count("atari") * 72)
    lines = describe_cost(config, ATARI, environment, {"update": updates})
    assert len(lines) == bool(words) and words in "".join(lines)
