"""Each file of configs/ablation: exactly what it changes, and two updates with it; groups of them."""

import dataclasses
import functools
import re
from itertools import product

import pytest
import torch
import yaml

from atari.networks import renormalize
from harness.command import config_groups
from harness.config import ConfigError, as_dict
from harness.sweeps.grid import Group, make_grid, read_groups
from harness.sweeps.plan import plan_runs
from mlr.cells import hidden_by
from mlr.masking import StageMask
from recipes import COMMANDS
from recipes.tables import TASK_SETTINGS
from tests.conftest import ROOT, make_config, make_dmcontrol_config
from tests.operations import OperationRecorder, fill, make_agent_and_replay
from tests.recipes import ATARI, DMCONTROL
from tests.test_configs import compose, difference, flat

CPU = torch.device("cpu")
RECIPES = {"atari": ATARI, "dmcontrol": DMCONTROL}

CHANGES = {
    "strategy_spatial": {"mlr.mask.strategy": "spatial"},
    "strategy_temporal": {"mlr.mask.strategy": "temporal"},
    "strategy_none": {"mlr.mask.strategy": "none"},
    **{f"ratio_{ratio}": {"mlr.mask.ratio": ratio} for ratio in (0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9)},
    **{f"patch_{size}": {"mlr.mask.patch_size": size} for size in (4, 7, 21, 42)},
    **{f"cube_depth_{depth}": {"mlr.mask.cube_depth": depth} for depth in (2, 4, 8, 16)},
    "seq_len_2": {"replay.window": 2, "mlr.seq_len": 2, "mlr.mask.cube_depth": 2},
    "seq_len_4": {"replay.window": 4, "mlr.seq_len": 4, "mlr.mask.cube_depth": 4},
    "seq_len_8": {"replay.window": 8, "mlr.seq_len": 8},
    "seq_len_32": {"replay.window": 32, "mlr.seq_len": 32},
    **{f"decoder_depth_{depth}": {"mlr.decoder.depth": depth} for depth in (0, 1, 4)},
    **{f"decoder_width_{width}": {"mlr.decoder.width": width} for width in (128, 512)},
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


def test_every_ablation_belongs_to_both_suites_and_is_tested():
    for suite in RECIPES:
        assert set(config_groups(suite)["ablation"]) == set(CHANGES)


compose_base = functools.cache(compose)
# On DMControl a file that is followed by another key, and one of the others; all are the files of Atari.
COMPOSED = [*(("atari", name) for name in CHANGES), ("dmcontrol", "seq_len_4"), ("dmcontrol", "feature_conv3")]


@pytest.mark.parametrize("suite, name", COMPOSED)
def test_what_an_ablation_changes_and_nothing_else(suite, name):
    base, changed = compose_base(suite), compose(suite, f"+ablation={name}")
    values = flat(base)
    expected = {key: (values[key], value) for key, value in CHANGES[name].items() if values[key] != value}
    assert difference(base, changed) == expected
    assert changed.experiment == f"mlr-{name}-released-full"


def test_every_ablation_is_valid_at_full_size_on_dmcontrol():
    for name in CHANGES:
        COMMANDS["dmcontrol"].build(as_dict(with_changes(compose_base("dmcontrol"), name)))


@pytest.mark.parametrize("name", CHANGES)
def test_every_ablation_says_what_it_asks(name):
    lines = (ROOT / "configs" / "ablation" / f"{name}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_" and lines[1].startswith("# ")
    assert "?" in " ".join(line for line in lines if line.startswith("#"))


def test_an_ablation_wins_over_preset_fidelity_and_task_and_the_command_line_over_it():
    config = compose("dmcontrol", "task=walker_walk", "fidelity=paper", "preset=tiny", "+ablation=tau_0.01")
    assert (config.mlr.tau, config.preset, config.fidelity) == (0.01, "tiny", "paper")
    assert config.run_dir.endswith("/walker_walk/mlr-tau_0.01-paper-tiny/seed_1")
    assert compose("atari", "+ablation=tau_0.01", "mlr.tau=0.5").mlr.tau == 0.5


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


def test_masks_without_cubes_read_no_depth():
    compose("atari", "replay.window=6", "mlr.mask.cube_depth=8", "mlr.mask.strategy=spatial")


@pytest.mark.parametrize("suite", RECIPES)
@pytest.mark.parametrize("overrides, expected", REFUSED, ids=[overrides for overrides, _ in REFUSED])
def test_impossible_combinations_are_refused_in_one_line(suite, overrides, expected):
    with pytest.raises(ConfigError, match=".*".join(expected.split(" ... "))) as error:
        compose(suite, *overrides.split())
    assert "\n" not in str(error.value)


# Updates. Clips have the paper's 16 steps, so that the files apply as they do at full size; the rest is tiny.


@functools.cache
def compose_tiny(suite, *overrides):
    clips = ("replay.window=16", "mlr.mask.cube_depth=8", "loop.learning_starts=60")
    if suite == "atari":
        return make_config("unused", *clips, *overrides)
    # An image of two of the largest patches a side, cells of 10 pixels, episodes of 60 steps.
    sizes = (
        "environment.image_size=84",
        "mlr.mask.patch_size=10",
        "agent.encoder.strides=[2,1,1]",
        "environment.episode_env_steps=240",
    )
    return make_dmcontrol_config("unused", "task=ball_in_cup_catch", *clips, *sizes, *overrides)


def apply(suite, name):
    """The tiny configuration with the values of an ablation's file."""
    config = with_changes(compose_tiny(suite), name)
    COMMANDS[suite].validate(config)
    return config


def with_changes(config, name):
    for key, value in CHANGES[name].items():
        config = replaced(config, key.split("."), value)
    return config


def replaced(config, path, value):
    first, *rest = path
    return dataclasses.replace(config, **{first: replaced(getattr(config, first), rest, value) if rest else value})


def make_agent(suite, config):
    """An agent and a replay with episodes of 60 steps."""
    agent, replay = make_agent_and_replay(RECIPES[suite], config, CPU)
    fill(replay, config, steps=120, episode=60)
    return agent, replay


def update(agent, replay):
    return agent.update_on_device(replay, *agent.cycle[0])


# On DMControl one number of each family is enough: none changes what is built or called.
ONE_OF_EACH = {re.sub(r"_[\d.]+$", "", name): name for name in CHANGES}.values()


@pytest.mark.parametrize(
    "suite, name", [*(("atari", name) for name in CHANGES), *(("dmcontrol", name) for name in ONE_OF_EACH)]
)
def test_two_updates(suite, name):
    """Losses are numbers, all that is trained has a gradient, and updates do the same operations on the same shapes."""
    agent, replay = make_agent(suite, apply(suite, name))
    owned = list(agent.auxiliary.owned.parameters())
    before = addresses(agent.auxiliary)
    update(agent, replay)  # makes the optimiser's state
    recorded = []
    for _ in range(2):
        with OperationRecorder() as recorder:
            metrics = update(agent, replay)
        recorded.append(recorder.calls)
        assert all(torch.isfinite(value) and value.shape == () for value in metrics.values())
    assert recorded[0] == recorded[1]
    assert addresses(agent.auxiliary) == before
    assert all(parameter.grad.abs().max() > 0 for parameter in agent.trained_parameters())
    assert {id(parameter) for parameter in owned} <= {id(parameter) for parameter in agent.trained_parameters()}
    saved = {tensor.data_ptr() for tensor in agent.auxiliary.state()["owned"].values()}
    assert {parameter.data_ptr() for parameter in owned} <= saved
    host = agent.auxiliary.host
    shares = hidden_by(agent.auxiliary.config, host.facts.image_size, host.view_size, host.layers)
    assert 0 <= shares.pixels <= shares.cells <= 1
    assert agent.auxiliary.notes() == {"mask": f"hides {shares}"}
    assert ("aux/error_visible" in metrics) == (name in ("pixel_target", "distance_mse"))
    assert ("aux/reward_loss" in metrics) == (name == "reward_prediction")


def addresses(auxiliary):
    modules = (auxiliary.owned, auxiliary.targets)
    return [tensor.data_ptr() for module in modules for tensor in module.state_dict().values()]


@pytest.mark.parametrize("suite", RECIPES)
def test_an_auxiliary_of_an_ablation_is_restored(suite):
    settings = ("+ablation=reward_prediction", "mlr.target=pixel", "mlr.action_tokens=false")
    agent, replay = make_agent(suite, compose_tiny(suite, *settings))
    update(agent, replay)
    other, _ = make_agent(suite, compose_tiny(suite, *settings, "seed=2"))
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


@pytest.mark.parametrize("suite, name", WIDTHS)
def test_heads(suite, name):
    """Weights of the predictor, and what takes the projector's place."""
    auxiliary = make_agent(suite, apply(suite, name))[0].auxiliary
    predictor = auxiliary.owned["predictor"]
    assert [tuple(p.shape) for p in predictor.parameters() if p.ndim == 2] == WIDTHS[suite, name]
    assert (list(auxiliary.objective.projector.parameters()) == []) == (name != "no_predictor")
    assert list(auxiliary.targets) == ([] if name == "pixel_target" else ["encoder", "projector"])


# Features


@pytest.mark.parametrize("suite, number", [("atari", n) for n in (1, 2, 3)] + [("dmcontrol", n) for n in (1, 2, 3)])
def test_features_are_hidden_exactly(suite, number):
    """Against the encoder's layers called one by one, with features set to 0 position by position."""
    agent, _ = make_agent(suite, compose_tiny(suite))
    encoder, steps, batch, grid = agent.encoder, 4, 2, 3
    stages = (encoder if suite == "atari" else encoder.convolutions).stages
    channels, side = (4, 84) if suite == "atari" else (9, 34)
    pixels = torch.randint(0, 256, (steps * batch, channels, side, side), dtype=torch.uint8).float()
    mask = torch.rand(1, steps, grid, grid) < 0.5
    assert mask.any() and not mask.all()

    features = pixels / 255
    for index in (1, 2, 3):
        layer, _ = stages[f"conv{index}"]
        features = torch.nn.functional.conv2d(features, layer.weight, layer.bias, layer.stride).relu()
        if index == number:
            features, side = features.clone(), features.shape[-1]
            for image, i, j in product(range(steps * batch), range(side), range(side)):
                if mask[0, image // batch, i * grid // side, j * grid // side]:
                    features[image, :, i, j] = 0
    expected = renormalize(features).flatten(1) if suite == "atari" else encoder.latent(features.flatten(1))
    latent = encoder(pixels, StageMask(f"conv{number}", mask))
    torch.testing.assert_close(latent, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(latent, encoder(pixels), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("suite", RECIPES)
def test_hidden_features_carry_no_gradient(suite):
    agent, _ = make_agent(suite, compose_tiny(suite))
    channels, side = (4, 84) if suite == "atari" else (9, 34)
    pixels = (torch.rand(2, channels, side, side) * 255).requires_grad_()
    everything = StageMask("conv1", torch.ones(1, 2, 3, 3, dtype=torch.bool))
    agent.encoder(pixels, everything).sum().backward()
    assert pixels.grad.abs().max() == 0


def test_the_share_of_hidden_pixels_of_both_suites_at_full_size():
    encoder = compose("atari").agent.encoder
    layers = [[(kernel, stride, 0)] for kernel, stride in zip(encoder.kernels, encoder.strides, strict=True)]
    pixel, last = compose("atari"), compose("atari", "+ablation=feature_conv3", "fidelity=paper")
    assert str(hidden_by(pixel.mlr, 84, 84, layers)) == "51.0% of its cells, 51.0% of the pixels"
    assert round(hidden_by(last.mlr, 84, 84, layers).pixels, 2) == 0.05
    layers = [[(3, stride, 0)] for stride in compose("dmcontrol").agent.encoder.strides]
    assert hidden_by(compose("dmcontrol").mlr, 100, 84, layers).pixels == 0.5
    features = [compose("dmcontrol", "+ablation=feature_conv1", f"mlr.mask.stage=conv{n}") for n in (1, 2, 3, 4)]
    shares = [hidden_by(config.mlr, 100, 84, layers) for config in features]
    assert all(share.cells == 0.5 for share in shares)
    assert [round(share.pixels, 3) for share in shares] == [0.446, 0.245, 0.108, 0.067]


# Groups


def plan_group(group, suite, *tasks):
    chosen = [TASK_SETTINGS[suite](task) for task in tasks]
    return plan_runs(COMMANDS[suite], chosen, make_grid([], group=group), [7])


@pytest.mark.parametrize("name", read_groups())
def test_every_group_changes_one_key_in_each_arm(name):
    group = read_groups()[name]
    values = flat(compose_base("atari"))
    base = values | CHANGES.get(group.base, {})
    arms = [values | (CHANGES.get(arm) or dict([arm.split("=")])) for arm in group.arms]  # files, and key=value
    changed = [{key for key, value in arm.items() if base[key] != value} for arm in arms]
    assert (not group.together and all(len(keys) <= 1 for keys in changed)) or name == "seq_len"
    assert len([keys for keys in changed if not keys]) <= 1, "an arm may be the base itself"


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
    keys = {"replay.window", "mlr.seq_len"}  # the second follows the first
    assert [set(run.changed) for run in runs[1:]] == [keys | {"mlr.mask.cube_depth"}] * 2 + [keys] * 2


def test_a_group_may_stand_on_an_ablation_and_name_keys():
    runs = plan_group(read_groups()["feature_stage"], "atari", "pong").runs
    assert [run.changed for run in runs] == [{}, *({"mlr.mask.stage": ["conv1", f"conv{n}"]} for n in (2, 3))]
    group = Group(["mlr.mask.stage=conv4"], base="feature_conv1")
    _, arm = plan_group(group, "dmcontrol", "finger_spin").runs
    config = COMMANDS["dmcontrol"].resolve(arm.overrides)
    assert (config.mlr.mask.space, config.mlr.mask.stage, config.seed) == ("feature", "conv4", 7)
    assert arm.run_dir == "runs/dmcontrol/finger_spin/mlr-feature_conv1-stage_conv4-released-full/seed_7"


def test_an_arm_that_changes_several_keys_is_refused():
    with pytest.raises(ConfigError, match="feature_conv2 changes 2 keys on pong"):
        plan_group(Group(["feature_conv2"]), "atari", "pong")
