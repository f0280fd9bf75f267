"""The files of configs/mwm: what the paper's table says, suites, ablations, and refusals."""

import pytest

from mwm.cells import hidden_pixels
from tests.conftest import ROOT
from tests.test_configs import GROUPS, compose, difference, flat, refusal

# Section 6 of the released code's settings: Meta-world and DMControl.
SUITES = {
    "suite": ("metaworld", "dmcontrol"),
    "agent_steps": (252_000, 502_000),
    "episode_agent_steps": (250, 500),
    "mwm.batch.windows": (50, 16),
    "mwm.behaviour.reward_momentum": (0.99, 1.0),
    "replay.prioritize_ends": (True, False),
    "evaluation.episodes": (10, 5),
    "evaluation.environments": (10, 5),
    "eval_first": (5_000, 5_000),
    "eval_every": (10_000, 10_000),
    "loop.learning_starts": (5_000, 5_000),
    "mwm.batch.pictures": (1024, 1024),
    "replay.window": (50, 50),
    "replay.capacity": (2_000_000, 2_000_000),
    "mwm.schedule.pretraining": (5_000, 5_000),
}


def value(config, key):
    for name in key.split("."):
        config = getattr(config, name)
    return config


@pytest.mark.parametrize("key", SUITES)
def test_the_settings_of_each_suite(key):
    tasks = ("task=window_close", "task=dmc_cartpole_balance")
    assert tuple(value(compose("mwm", task), key) for task in tasks) == SUITES[key]


def test_a_manipulation_task_is_of_dmcontrol_and_shorter():
    config = compose("mwm", "task=manip_reach_duplo")
    assert (config.suite, config.episode_agent_steps, config.mwm.batch.windows) == ("dmcontrol", 125, 16)


def test_an_environment_of_the_user_s_own():
    config = compose("mwm", "env=my.module:make")
    assert (config.suite, config.task) == ("gymnasium", "make")


CHANGES = {
    "stem_patch": {"mwm.stem": ("conv", "patch")},
    "no_reward_prediction": {"mwm.reward_prediction": (True, False)},
    **{f"mask_ratio_{ratio}": {"mwm.mask_ratio": (0.75, ratio)} for ratio in (0.25, 0.5, 0.9)},
}


def test_the_pixel_baseline_changes_the_world_model_alone():
    config = compose("mwm", "world_model=pixels")
    assert difference(compose("mwm"), config) == {"mwm.world_model": ("mwm", "pixels")}
    assert config.experiment == "pixel_baseline-released-full"


def test_every_ablation_is_tested():
    assert set(GROUPS["mwm"]["ablation"]) == set(CHANGES)


@pytest.mark.parametrize("name", CHANGES)
def test_what_an_ablation_changes_and_which_share_of_the_pixels_it_hides(name):
    base, config = compose("mwm"), compose("mwm", f"+ablation={name}")
    assert difference(base, config) == CHANGES[name]
    assert config.experiment == f"mwm-{name}-released-full"
    share = hidden_pixels(config.mwm.stem, config.environment.image_size, config.mwm.mask_ratio)
    comment = (ROOT / "configs" / "mwm" / "ablation" / f"{name}.yaml").read_text().partition("experiment:")[0]
    assert f"{share:.1%}" in comment.replace(" %", "%")


def test_ablations_and_auxiliaries_of_the_other_method_are_not_offered():
    assert GROUPS["mwm"]["auxiliary"] == ["none"] and "ratio_0.1" not in GROUPS["mwm"]["ablation"]
    assert "stem_patch" not in GROUPS["atari"]["ablation"]


REFUSED = [
    ("auxiliary=mlr", "no auxiliary named 'mlr'; choose one of none"),
    ("+ablation=ratio_0.1", "no ablation named 'ratio_0.1'"),
    ("method=sac", "method=sac is not one of mwm"),
    ("task=window_clsoe", "did you mean window_close?"),
    ("task=rlbench_reach_target", "RLBench needs CoppeliaSim"),
    ("suite=dmcontrol", "suite=dmcontrol follows from other settings, and is metaworld with these"),
    ("env=my.module:make task=reach", "task=reach follows from other settings"),
    ("mask_ratio=0.5", "did you mean mwm.mask_ratio?"),
    ("environment.image_size=60", "environment.image_size=60 must be a multiple of 8"),
    ("mwm.encoder.heads=3", "mwm.encoder.width=256 must be a multiple of mwm.encoder.heads=3"),
    ("mwm.rssm.classes=1", "mwm.rssm.classes=1 must be at least 2"),
    ("mwm.mask_ratio=0.99", "mwm.mask_ratio=0.99 of 64 tokens leaves none"),
    ("mwm.mask_ratio=1", "mwm.mask_ratio=1.0 must be below 1"),
    ("loop.order=overlapped", "with loop.order=released only"),
    ("loop.learning_starts=249", "loop.learning_starts=249 must be at least 250"),
    ("replay.shortest_window=252 replay.window=252", "does not fit an episode of 251 pictures"),
    ("replay.window=49", "replay.shortest_window=50 must be at most replay.window=49"),
    ("replay.capacity=499", "replay.capacity=499 must be at least 500"),
    ("env_steps=301", "no multiple of environment.action_repeat=2"),
    ("loop.replay_ratio=1", "no key loop.replay_ratio"),
    ("world_model=pixels +ablation=stem_patch", "changes mwm.stem, which world_model=pixels does not read"),
    ("+ablation=mask_ratio_0.5 mwm.world_model=pixels", "changes mwm.mask_ratio, which world_model=pixels does not"),
    ("world_model=pixels mwm.encoder={width:64}", "changes mwm.encoder.width, which world_model=pixels does not read"),
    ("mwm.pixels.depth=8", "changes mwm.pixels.depth, which world_model=mwm does not read: leave one of them out"),
]


@pytest.mark.parametrize("arguments, expected", REFUSED, ids=[arguments for arguments, _ in REFUSED])
def test_wrong_settings_are_one_line(tmp_path, monkeypatch, capsys, arguments, expected):
    monkeypatch.chdir(tmp_path)
    settings = arguments.split()
    task = [] if any(setting.startswith("task=") for setting in settings) else ["task=window_close"]
    assert expected in refusal("mwm", [*task, *settings], capsys)


def test_the_default_keeps_the_released_optimisers():
    values = flat(compose("mwm"))
    rates = {name: values[f"mwm.optimizers.{name}.learning_rate"] for name in ("autoencoder", "dynamics", "actor")}
    assert rates == {"autoencoder": 3e-4, "dynamics": 3e-4, "actor": 1e-4}
    assert values["mwm.optimizers.autoencoder.warmup_updates"] == 2500
    decayed = [values[f"mwm.optimizers.{name}.decayed"] for name in ("autoencoder", "dynamics", "actor", "critic")]
    assert decayed == ["all", "matrices", "matrices", "matrices"]
