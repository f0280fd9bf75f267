"""Each file of configs/ablation: exactly what it changes, and two updates with it; groups of them."""

import dataclasses
import functools
from itertools import product

import numpy as np
import pytest
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

import tests.test_configs as atari_configs
import tests.test_dmcontrol_configs as dmcontrol_configs
from atari.agent import RainbowAgent
from atari.agent import hidden_shares as atari_shares
from atari.config import validate as validate_atari
from atari.cost import update_flops as atari_flops
from atari.networks import renormalize
from atari.replay import SequenceReplay
from dmcontrol.agent import SACAgent
from dmcontrol.agent import hidden_shares as dmcontrol_shares
from dmcontrol.config import validate as validate_dmcontrol
from dmcontrol.cost import update_flops as dmcontrol_flops
from dmcontrol.replay import TransitionReplay
from harness.command_line import config_groups
from harness.config import ConfigError
from harness.sweeps.grid import Group, make_grid, read_groups
from harness.sweeps.plan import plan_runs
from mlr.masking import StageMask
from scripts.benchmarks import COMMANDS, TASK_KEYS
from tests.conftest import make_config, make_dmcontrol_config
from tests.operations import OperationRecorder
from tests.test_configs import ROOT, difference, flat

CPU, ACTIONS, STEPS = torch.device("cpu"), 3, 120
COMPOSE = {"atari": atari_configs.compose, "dmcontrol": dmcontrol_configs.compose}
VALIDATE = {"atari": validate_atari, "dmcontrol": validate_dmcontrol}
SHARES = {"atari": atari_shares, "dmcontrol": dmcontrol_shares}

CHANGES = {
    "strategy_spatial": {"mlr.mask.strategy": "spatial"},
    "strategy_temporal": {"mlr.mask.strategy": "temporal"},
    "strategy_none": {"mlr.mask.strategy": "none"},
    **{f"ratio_{ratio}": {"mlr.mask.ratio": ratio} for ratio in (0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9)},
    **{f"patch_{size}": {"mlr.mask.patch_size": size} for size in (4, 7, 21, 42)},
    **{f"cube_depth_{depth}": {"mlr.mask.cube_depth": depth} for depth in (2, 4, 8, 16)},
    "seq_len_2": {"mlr.seq_len": 2, "mlr.mask.cube_depth": 2},
    "seq_len_4": {"mlr.seq_len": 4, "mlr.mask.cube_depth": 4},
    "seq_len_8": {"mlr.seq_len": 8},
    "seq_len_32": {"mlr.seq_len": 32},
    **{f"decoder_depth_{depth}": {"mlr.decoder.depth": depth} for depth in (0, 1, 4)},
    "no_actions": {"mlr.action_tokens": False},
    "pixel_target": {"mlr.target": "pixel"},
    "distance_mse": {"mlr.distance": "mse"},
    "no_projector": {"mlr.projector": False},
    "no_predictor": {"mlr.predictor": False},
    **{f"tau_{tau:g}": {"mlr.tau": tau} for tau in (1.0, 0.1, 0.05, 0.01, 0.001)},
    "feature_conv1": {"mlr.mask.space": "feature"},
    "feature_conv2": {"mlr.mask.space": "feature", "mlr.mask.stage": "conv2"},
    "feature_conv3": {"mlr.mask.space": "feature", "mlr.mask.stage": "conv3"},
    "reward_prediction": {"mlr.reward_weight": 1.0},
    **{f"weight_{weight:g}": {"mlr.weight": weight} for weight in (0.1, 0.5, 1.0, 2.0, 5.0, 10.0)},
}


@functools.cache
def compose_base(benchmark):
    return COMPOSE[benchmark]()


def test_every_ablation_belongs_to_both_benchmarks_and_is_tested():
    for benchmark in COMPOSE:
        assert set(config_groups(benchmark)["ablation"]) == set(CHANGES)


@pytest.mark.parametrize("benchmark, name", list(product(COMPOSE, CHANGES)))
def test_what_an_ablation_changes_and_nothing_else(benchmark, name):
    base, changed = compose_base(benchmark), COMPOSE[benchmark](f"+ablation={name}")
    values = flat(base)
    expected = {key: (values[key], value) for key, value in CHANGES[name].items() if values[key] != value}
    assert difference(base, changed) == expected
    assert changed.experiment == f"mlr-{name}-released-full"


@pytest.mark.parametrize("name", CHANGES)
def test_every_ablation_says_what_it_asks(name):
    lines = (ROOT / "configs" / "ablation" / f"{name}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_" and lines[1].startswith("# ")
    assert "?" in " ".join(line for line in lines if line.startswith("#"))


def test_an_ablation_wins_over_preset_fidelity_and_task_and_the_command_line_over_it():
    config = COMPOSE["dmcontrol"]("task=walker_walk", "fidelity=paper", "preset=tiny", "+ablation=tau_0.01")
    assert (config.mlr.tau, config.preset, config.fidelity) == (0.01, "tiny", "paper")
    assert config.run_dir.endswith("/walker_walk/mlr-tau_0.01-paper-tiny/seed_1")
    assert COMPOSE["atari"]("+ablation=tau_0.01", "mlr.tau=0.5").mlr.tau == 0.5


REFUSED = [
    ("+ablation=ratio_0.35", "did you mean"),
    ("mlr.target=latents", "mlr.target=latents is not one of latent, pixel"),
    ("mlr.distance=l2", "not one of cosine, mse"),
    ("mlr.mask.space=features", "not one of pixel, feature"),
    ("mlr.reward_weight=-1", "at least 0"),
    ("+ablation=pixel_target mlr.predictor=false", "leave mlr.projector and mlr.predictor at true"),
    ("+ablation=pixel_target mlr.projector=false", "leave mlr.projector and mlr.predictor at true"),
    ("+ablation=strategy_none mlr.mask.space=feature", "leave mlr.mask.space at pixel"),
    ("mlr.mask.space=feature mlr.mask.stage=conv5", "mlr.mask.stage=conv5 is not one of conv1, conv2, conv3"),
    ("mlr.mask.space=feature mlr.mask.stage=fc", "mlr.mask.stage=fc is not one of"),
    ("+ablation=feature_conv3 mlr.mask.patch_size=1", "choose an earlier stage"),
    ("+ablation=seq_len_8 mlr.mask.cube_depth=16", "is not a multiple of"),
]


@pytest.mark.parametrize("benchmark", COMPOSE)
@pytest.mark.parametrize("overrides, expected", REFUSED, ids=[overrides for overrides, _ in REFUSED])
def test_impossible_combinations_are_refused_in_one_line(benchmark, overrides, expected):
    with pytest.raises(ConfigError, match=".*".join(expected.split(" ... "))) as error:
        COMPOSE[benchmark](*overrides.split())
    assert "\n" not in str(error.value)


# Updates. Clips have the paper's 16 steps, so that the files apply as they do at full size; the rest is tiny.


@functools.cache
def recorded_steps(channels, size):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (STEPS + 1, channels, size, size), dtype=np.uint8)
    return frames, rng.uniform(-1, 1, (STEPS, ACTIONS)).astype(np.float32), rng.integers(-1, 2, STEPS).astype(float)


@functools.cache
def atari_replay(seq_len):
    config = compose_tiny("atari")
    replay = SequenceReplay(config.replay, config.agent, seq_len, (84, 84), 4, CPU)
    frames, actions, rewards = recorded_steps(4, 84)
    for step in range(STEPS):
        replay.begin_step()
        ends = (step % 50 == 49, False)
        replay.store(frames[step], step % ACTIONS, rewards[step], *ends, None, {"life_lost": False})
    return replay


@functools.cache
def dmcontrol_replay(seq_len):
    replay = TransitionReplay(STEPS, seq_len, (3, 84, 84), 3, ACTIONS, CPU, min_episode=60)
    frames, actions, rewards = recorded_steps(9, 84)
    for step in range(STEPS):
        replay.store(frames[step], actions[step], rewards[step], False, step % 60 == 59, frames[step + 1], {})
    return replay


@functools.cache
def compose_tiny(benchmark, *overrides):
    clips = ("mlr.seq_len=16", "mlr.mask.cube_depth=8", "loop.learning_starts=60")
    if benchmark == "atari":
        return make_config("unused", *clips, *overrides)
    # An image of two of the largest patches a side, cells of 10 pixels, episodes of 60 steps.
    sizes = (
        "environment.image_size=84",
        "mlr.mask.patch_size=10",
        "agent.encoder.strides=[2,1,1]",
        "environment.episode_env_steps=240",
    )
    return make_dmcontrol_config("unused", "task=ball_in_cup_catch", *clips, *sizes, *overrides)


def apply(benchmark, name):
    """The tiny configuration with the values of an ablation's file."""
    config = compose_tiny(benchmark)
    for key, value in CHANGES[name].items():
        config = replaced(config, key.split("."), value)
    VALIDATE[benchmark](config)
    return config


def replaced(config, path, value):
    first, *rest = path
    return dataclasses.replace(config, **{first: replaced(getattr(config, first), rest, value) if rest else value})


def make_agent(benchmark, config):
    if benchmark == "atari":
        return RainbowAgent(config, ACTIONS, CPU), atari_replay(config.mlr.seq_len)
    return SACAgent(config, ACTIONS, CPU), dmcontrol_replay(config.mlr.seq_len)


def update(benchmark, agent, replay):
    return agent.update_on_device(replay) if benchmark == "atari" else agent.update_on_device(replay, True)


@pytest.mark.parametrize("benchmark, name", list(product(COMPOSE, CHANGES)))
def test_two_updates(benchmark, name):
    """Losses are numbers, all that is trained has a gradient, and updates do the same operations on the same shapes."""
    agent, replay = make_agent(benchmark, apply(benchmark, name))
    owned = agent.auxiliary.owned_parameters()
    addresses = [tensor.data_ptr() for part in agent.auxiliary.state().values() for tensor in part.values()]
    update(benchmark, agent, replay)  # makes the optimiser's state
    recorded = []
    for _ in range(2):
        with OperationRecorder() as recorder:
            metrics = update(benchmark, agent, replay)
        recorded.append(recorder.calls)
        assert all(torch.isfinite(value) and value.shape == () for value in metrics.values())
    assert recorded[0] == recorded[1]
    assert [t.data_ptr() for part in agent.auxiliary.state().values() for t in part.values()] == addresses
    assert all(parameter.grad.abs().max() > 0 for parameter in agent.trained_parameters())
    assert {id(parameter) for parameter in owned} <= {id(parameter) for parameter in agent.trained_parameters()}
    saved = {tensor.data_ptr() for tensor in agent.auxiliary.state()["owned"].values()}
    assert {parameter.data_ptr() for parameter in owned} <= saved
    shares = SHARES[benchmark](agent.config)
    assert 0 <= shares.pixels <= shares.cells <= 1
    assert ("mlr_error_visible" in metrics) == (name in ("pixel_target", "distance_mse"))
    assert ("mlr_reward_loss" in metrics) == (name == "reward_prediction")


@pytest.mark.parametrize("benchmark", COMPOSE)
def test_an_auxiliary_of_an_ablation_is_restored(benchmark):
    settings = ("+ablation=reward_prediction", "mlr.target=pixel", "mlr.action_tokens=false")
    agent, replay = make_agent(benchmark, compose_tiny(benchmark, *settings))
    update(benchmark, agent, replay)
    other, _ = make_agent(benchmark, compose_tiny(benchmark, *settings, "seed=2"))
    other.load_state(agent.state())
    for (name, saved), (_, restored) in zip(
        agent.auxiliary.owned.named_parameters(), other.auxiliary.owned.named_parameters(), strict=True
    ):
        assert torch.equal(saved, restored), name


WIDTHS = {
    ("atari", "no_projector"): [(392, 392)],
    ("atari", "no_predictor"): [],
    ("atari", "pixel_target"): [(84 * 84, 392)],
    ("dmcontrol", "no_projector"): [(12, 16), (16, 12)],
    ("dmcontrol", "no_predictor"): [],
    ("dmcontrol", "pixel_target"): [(3 * 34 * 34, 16)],
}


@pytest.mark.parametrize("benchmark, name", WIDTHS)
def test_heads(benchmark, name):
    """Weights of the predictor, and what takes the projector's place."""
    auxiliary = make_agent(benchmark, apply(benchmark, name))[0].auxiliary
    predictor = auxiliary.owned["predictor"]
    assert [tuple(p.shape) for p in predictor.parameters() if p.ndim == 2] == WIDTHS[benchmark, name]
    assert (list(auxiliary.projector.parameters()) == []) == (name != "no_predictor")
    assert list(auxiliary.targets) == ([] if name == "pixel_target" else ["encoder", "projector"])


COSTS = ("no_actions", "decoder_depth_0", "decoder_depth_1", "pixel_target", "no_projector", "no_predictor")
COSTS += ("reward_prediction", "seq_len_4", "feature_conv2", "strategy_none")


def counted_flops(benchmark, name):
    """Of an update, and of the same without the auxiliary."""
    config = apply(benchmark, name)
    counted = []
    for aux in ("mlr", "none"):
        agent, replay = make_agent(benchmark, dataclasses.replace(config, aux=aux))
        with FlopCounterMode(display=False) as counter:
            update(benchmark, agent, replay)
        counted.append(counter.get_total_flops())
    return config, counted


@pytest.mark.parametrize("name", COSTS)
def test_the_arithmetic_of_an_ablation_is_the_counted_one(name):
    config, (whole, without) = counted_flops("dmcontrol", name)
    formula = [dmcontrol_flops(dataclasses.replace(config, aux=aux), ACTIONS) for aux in ("mlr", "none")]
    assert formula[0] - formula[1] == pytest.approx(whole - without, rel=1e-9)
    config, (whole, without) = counted_flops("atari", name)
    formula = [atari_flops(dataclasses.replace(config, aux=aux), ACTIONS) for aux in ("mlr", "none")]
    # Products of queries, keys and values are left out there, and the embedding's input needs no gradient.
    assert formula[0] - formula[1] == pytest.approx(whole - without, rel=0.08)


# Features


@pytest.mark.parametrize("benchmark, number", [("atari", n) for n in (1, 2, 3)] + [("dmcontrol", n) for n in (1, 2, 3)])
def test_features_are_hidden_exactly(benchmark, number):
    """Against the encoder's layers called one by one, with features set to 0 position by position."""
    agent, _ = make_agent(benchmark, compose_tiny(benchmark))
    encoder, steps, batch, grid = agent.encoder, 4, 2, 3
    channels, side = (4, 84) if benchmark == "atari" else (9, 34)
    pixels = torch.randint(0, 256, (steps * batch, channels, side, side), dtype=torch.uint8).float()
    mask = torch.rand(1, steps, grid, grid) < 0.5
    assert mask.any() and not mask.all()

    features = pixels / 255
    for index in (1, 2, 3):
        layer, _ = encoder.stages[f"conv{index}"]
        features = torch.nn.functional.conv2d(features, layer.weight, layer.bias, layer.stride).relu()
        if index == number:
            features, side = features.clone(), features.shape[-1]
            for image, i, j in product(range(steps * batch), range(side), range(side)):
                if mask[0, image // batch, i * grid // side, j * grid // side]:
                    features[image, :, i, j] = 0
    expected = renormalize(features).flatten(1) if benchmark == "atari" else encoder.latent(features.flatten(1))
    latent = encoder(pixels, StageMask(f"conv{number}", mask))
    torch.testing.assert_close(latent, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(latent, encoder(pixels), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("benchmark", COMPOSE)
def test_hidden_features_carry_no_gradient(benchmark):
    agent, _ = make_agent(benchmark, compose_tiny(benchmark))
    channels, side = (4, 84) if benchmark == "atari" else (9, 34)
    pixels = (torch.rand(2, channels, side, side) * 255).requires_grad_()
    everything = StageMask("conv1", torch.ones(1, 2, 3, 3, dtype=torch.bool))
    agent.encoder(pixels, everything).sum().backward()
    assert pixels.grad.abs().max() == 0


def test_the_share_of_hidden_pixels_of_both_benchmarks_at_full_size():
    pixel, last = COMPOSE["atari"](), COMPOSE["atari"]("+ablation=feature_conv3", "fidelity=paper")
    assert (str(atari_shares(pixel)), round(atari_shares(last).pixels, 2)) == (
        "51.0% of its cells, 51.0% of the pixels",
        0.05,
    )
    pixel = COMPOSE["dmcontrol"]()
    features = [COMPOSE["dmcontrol"]("+ablation=feature_conv1", f"mlr.mask.stage=conv{n}") for n in (1, 2, 3, 4)]
    assert dmcontrol_shares(pixel).pixels == 0.5
    shares = [dmcontrol_shares(config) for config in features]
    assert all(share.cells == 0.5 for share in shares)
    assert [round(share.pixels, 3) for share in shares] == [0.446, 0.245, 0.108, 0.067]


# Groups


def plan_group(group, benchmark, *tasks):
    key = TASK_KEYS[benchmark]
    return plan_runs(COMMANDS[benchmark], {task: [f"{key}={task}"] for task in tasks}, make_grid([], group=group), [7])


@pytest.mark.parametrize("name", read_groups())
def test_every_group_changes_one_key_in_each_arm(name):
    group = read_groups()[name]
    plan = plan_group(group, "atari", "alien")
    base, *arms = plan.runs
    assert base.changed == {} and len(arms) + len(plan.doubles) == len(group.arms)
    assert (not group.together and all(len(run.changed) == 1 for run in arms)) or name == "seq_len"


def test_the_file_of_groups_uses_every_ablation():
    named = {
        arm
        for entry in yaml.safe_load((ROOT / "configs/ablation_groups.yaml").read_text()).values()
        for arm in entry["arms"]
    }
    assert set(CHANGES) <= named


def test_an_arm_that_is_the_base_of_a_task_is_left_out():
    tasks = ("cartpole_swingup", "finger_spin")
    plan = plan_group(read_groups()["cube_depth"], "dmcontrol", *tasks)
    arms = [[run.changed for run in plan.runs if run.task == task] for task in tasks]
    key = "mlr.mask.cube_depth"
    assert arms[0] == [{}, {key: [4, 2]}, {key: [4, 8]}, {key: [4, 16]}]
    assert arms[1] == [{}, {key: [8, 2]}, {key: [8, 4]}, {key: [8, 16]}]
    assert [double.overrides for double in plan.doubles] == [["+ablation=cube_depth_4"], ["+ablation=cube_depth_8"]]


def test_k_may_take_the_cube_depth_with_it():
    runs = plan_group(read_groups()["seq_len"], "atari", "pong").runs
    assert [len(run.changed) for run in runs] == [0, 2, 2, 1, 1]


def test_a_group_may_stand_on_an_ablation_and_name_keys():
    runs = plan_group(read_groups()["feature_stage"], "atari", "pong").runs
    assert [run.changed for run in runs] == [{}, *({"mlr.mask.stage": ["conv1", f"conv{n}"]} for n in (2, 3))]
    group = Group(["mlr.mask.stage=conv4"], base="feature_conv1")
    _, arm = plan_group(group, "dmcontrol", "finger_spin").runs
    config = dmcontrol_configs.compose(*arm.overrides)
    assert (config.mlr.mask.space, config.mlr.mask.stage, config.seed) == ("feature", "conv4", 7)
    assert arm.run_dir == "runs/dmcontrol/finger_spin/mlr-feature_conv1-stage_conv4-released-full/seed_7"


def test_an_arm_that_changes_several_keys_is_refused():
    with pytest.raises(ConfigError, match="feature_conv2 changes 2 keys on pong"):
        plan_group(Group(["feature_conv2"]), "atari", "pong")
