"""Configurations of run folders, of this version and of earlier ones, and the recipes that they name."""

import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from harness.config import ConfigError, as_dict
from harness.own_suite import OWN
from harness.report.scores import Identity
from harness.run_folder import RunFolder, check_run, config_hash, read_config, record_start, renamed
from mwm.method import MWM
from mwm.suite import DMCONTROL_PIXELS, METAWORLD
from recipes import COMMANDS, load_config, load_recipe
from recipes.changes import identify, method_label
from tests.conftest import ROOT, make_config, make_dmcontrol_config
from tests.recipes import ATARI, DMCONTROL
from tests.test_configs import entries

SHIPPED = sorted(ROOT.glob("results/runs/*/*/*/config.yaml"))
OLD = [path.parent for path in SHIPPED if "benchmark" in yaml.safe_load(path.read_text())]
# Today's places of old keys, written down apart from configs/renamed.yaml.
MOVED = {
    "benchmark": "suite", "aux": "auxiliary", "game": "task", "emulator": "environment.emulator",
    "mlr_agent.batch_size": "aux_optimizer.batch_size",
    "mlr_agent.learning_rate": "aux_optimizer.learning_rate",
    "mlr_agent.warmup_updates": "aux_optimizer.warmup_updates", "mlr_agent.warmup_start": "aux_optimizer.warmup_start",
    "mlr_agent.clip_norm": "aux_optimizer.clip_norm", "mlr_agent.projection": "aux_networks.projection",
    "mlr_agent.init_std": "aux_networks.init_std", "mlr_agent.redraw": "aux_networks.redraw",
    "mlr_weight_by_game.pong": "mlr.weight_by_task.pong",
    "mlr_weight_by_game.up_n_down": "mlr.weight_by_task.up_n_down",
}  # fmt: skip


def at(config, key: str):
    """A value by its dotted key, of dataclasses and dicts."""
    for name in key.split("."):
        config = config[name] if isinstance(config, dict) else getattr(config, name)
    return config


@pytest.mark.parametrize("run", OLD, ids=[str(run.relative_to(ROOT)) for run in OLD])
def test_a_run_of_an_earlier_version_is_read_under_todays_names(run, tmp_path):
    old = entries(yaml.safe_load((run / "config.yaml").read_text()))
    config = load_config(run)
    unread = {"mlr"} if old["benchmark"] == "atari" else {"mlr", "augmentation", "aux_optimizer", "aux_networks"}
    for key, value in old.items():
        key = MOVED.get(key, key)
        if old["aux"] != "none" or key.split(".")[0] not in unread:
            assert at(config, key) == value
    if old["aux"] == "mlr":
        assert config.replay.window == old["mlr.seq_len"]
    assert all(getattr(config, section) is None for section in unread) == (old["aux"] == "none")
    assert config.method == {"atari": "rainbow", "dmcontrol": "sac"}[old["benchmark"]]
    assert not renamed()["keys"].keys() - {"game", "mlr.seq_len"} & entries(read_config(run)).keys()
    shutil.copy(run / "config.yaml", tmp_path)
    check_run(replace(config, run_dir=str(tmp_path)))  # the same configuration, under either names


def test_every_shipped_run_builds_a_configuration():
    assert OLD and all(load_config(path.parent).method for path in SHIPPED)


@pytest.mark.parametrize("make", [make_config, make_dmcontrol_config])
@pytest.mark.parametrize("auxiliary", ["mlr", "none"])
def test_the_file_of_a_run_builds_the_same_configuration(make, auxiliary, tmp_path):
    config = make(tmp_path / "run", f"auxiliary={auxiliary}", "fidelity=paper")
    record_start(config, {})
    again = load_config(tmp_path / "run")
    assert again == config and config_hash(again) == config_hash(config)


def edited(folder: Path, **changes) -> Path:
    """A run folder whose configuration somebody has changed; None removes a key."""
    record_start(make_config(folder), {})
    file = RunFolder(folder).config
    content = yaml.safe_load(file.read_text()) | changes
    file.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    return folder


@pytest.mark.parametrize("changes, expected", [
    ({"novelty": 3}, "no key novelty in this version"),
    ({"loop": {"order": "overlapped", "learning_starts": 60, "replay_ratio": 1.0, "hurry": 1}}, "no key loop.hurry"),
    ({"seed": None}, "seed has no value"),
    ({"mlr": None}, "mlr.seq_len has no value"),
    ({"seed": "one"}, "seed=one must be an integer"),
    ({"auxiliary": "spr2000"}, "auxiliary=spr2000 is not one of none, mlr"),
    ({"method": "chess"}, "is a run of an unknown method, chess"),
    ({"benchmark": "atari", "novelty": 3}, "no key novelty in this version"),
])  # fmt: skip
def test_a_file_that_does_not_fit_is_refused_in_one_line(changes, expected, tmp_path):
    with pytest.raises(ConfigError, match=expected) as raised:
        load_config(edited(tmp_path / "run", **changes))
    assert "\n" not in str(raised.value) and str(tmp_path / "run") in str(raised.value)


LEAN = {"variant": ("", "lean")}
TWO = {"replay.window": (16, 4), "mlr.mask.cube_depth": (8, 2)}


def step(name: str) -> dict:
    return {"ladder": ("none", name)}


def test_no_run_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is no run folder"):
        load_config(tmp_path)


def test_a_recipe_is_that_of_its_configuration(tmp_path):
    assert load_recipe(make_config(tmp_path)) == ATARI and load_recipe(make_dmcontrol_config(tmp_path)) == DMCONTROL


@pytest.mark.parametrize(
    ("command", "settings", "expected"),
    [
        ("atari", "game=pong preset=tiny", ("mlr", {}, "")),
        ("atari", "game=pong preset=tiny +ablation=ratio_0.3", ("mlr", {"mlr.mask.ratio": (0.5, 0.3)}, "ratio_0.3")),
        ("atari", "game=pong auxiliary=none agent_steps=9000", ("none", {"agent_steps": (100000, 9000)}, "")),
        ("dmcontrol", "task=walker_walk +ablation=seq_len_8", ("mlr", {"replay.window": (16, 8)}, "seq_len_8")),
        ("atari", "game=pong +ablation=seq_len_4", ("mlr", {"replay.window": (16, 4)}, "seq_len_4")),
        ("atari", "game=pong replay.window=4 mlr.mask.cube_depth=2", ("mlr", TWO, "")),
        ("dmcontrol", "domain=hopper task_name=hop experiment=a-b env_steps=8", ("mlr", {}, "a-b")),
        ("mwm", "task=reach world_model=pixels mwm.kl.free=2", ("pixels", {"mwm.kl.free": (0.01, 2.0)}, "")),
        ("atari", "game=pong +variant=lean ladder=resets experiment=a", ("mlr", {**LEAN, **step("resets")}, "a")),
        (
            "atari",
            "game=pong auxiliary=none ladder=annealing resets.every=9000",
            ("none", step("annealing") | {"resets.every": (20000, 9000)}, ""),
        ),
        ("dmcontrol", "task=walker_walk ladder=resets_all", ("mlr", step("resets_all"), "")),
    ],
)
def test_a_configuration_is_known_as_its_method_and_changes(command, settings, expected):
    """Lengths of a DMControl run, names, and keys that follow others are no changes; files of groups are recognised."""
    config = as_dict(COMMANDS[command].resolve(settings.split()))
    assert identify(config) == Identity(*expected)


@pytest.mark.parametrize("part", [ATARI, DMCONTROL, MWM, METAWORLD, DMCONTROL_PIXELS, OWN])
def test_a_recipe_reaches_the_process_of_evaluations_in_the_background(part):
    assert pickle.loads(pickle.dumps(part)) == part


def test_a_card_names_the_choices_beside_the_method():
    config = COMMANDS["atari"].resolve("game=pong +variant=lean ladder=resets resets.every=9000".split())
    assert method_label(config) == "MLR, lean, resets"
