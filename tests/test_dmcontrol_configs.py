"""The DMControl files in configs/: what they compose to, and how the command refuses the rest."""

import pytest

from dmcontrol.config import DMControlConfig
from tests import test_configs
from tests.test_configs import GROUPS, flat, refusal


def compose(*overrides: str) -> DMControlConfig:
    return test_configs.compose("dmcontrol", *overrides)


def test_the_default_is_the_paper_setting_of_the_released_code():
    config = compose()
    assert (config.preset, config.fidelity, config.auxiliary) == ("full", "released", "mlr")
    expected = {
        "env_steps": 100_000, "eval_every_env_steps": 5000, "environment.image_size": 100,
        "environment.frame_stack": 3, "environment.action_repeat": 4, "environment.camera": 0,
        "environment.episode_env_steps": 1000, "environment.shadow_size": 0,
        "agent.encoder.filters": 64, "agent.encoder.strides": [2, 1, 1, 1], "agent.encoder.latent": 50,
        "agent.crop_size": 84, "agent.hidden": 1024, "agent.log_std_min": -10.0, "agent.log_std_max": 2.0,
        "agent.discount": 0.99, "agent.batch_size": 512, "agent.learning_rate": 1e-3, "agent.adam_beta1": 0.9,
        "agent.adam_beta2": 0.999, "agent.initial_temperature": 0.1, "agent.temperature_learning_rate": 1e-4,
        "agent.temperature_beta1": 0.5, "agent.critic_tau": 0.01, "agent.critic_encoder_tau": 0.05,
        "agent.update_every": 2, "replay.capacity": 100_000, "replay.window": 16, "augmentation.pad": 0,
        "augmentation.intensity": 0.05,
        "augmentation.intensity_clamp": 2.0, "mlr.seq_len": 16, "mlr.tau": 0.05, "mlr.norm_floor": 1e-3,
        "mlr.masked_scale": 1.0, "mlr.mask.strategy": "cube", "mlr.mask.ratio": 0.5, "mlr.mask.patch_size": 10,
        "mlr.mask.cube_depth": 8, "mlr.mask.rounding": "down", "mlr.decoder.depth": 2, "mlr.decoder.heads": 1,
        "mlr.decoder.mlp_ratio": 2.0, "mlr.decoder.qkv_bias": False, "mlr.decoder.norm_eps": 1e-5,
        "aux_optimizer.batch_size": 128, "aux_optimizer.learning_rate": 5e-4, "aux_optimizer.warmup_updates": 6000,
        "aux_optimizer.warmup_start": 5e-4, "aux_optimizer.clip_norm": 10.0, "aux_networks.projection": 100,
        "aux_networks.init_std": 0.02, "loop.learning_starts": 1000, "loop.replay_ratio": 1.0,
        "evaluation.episodes": 10,
    }  # fmt: skip
    values = flat(config)
    assert {key: values[key] for key in expected} == expected


TASKS = {
    "finger_spin": (2, 1e-3, 5e-4, 8, 0.05),
    "cartpole_swingup": (8, 1e-3, 5e-4, 4, 0.05),
    "reacher_easy": (4, 1e-3, 5e-4, 4, 0.05),
    "cheetah_run": (4, 2e-4, 1e-4, 8, 0.05),
    "walker_walk": (2, 1e-3, 5e-4, 8, 0.1),
    "ball_in_cup_catch": (4, 1e-3, 5e-4, 8, 0.05),
}


def test_a_task_is_its_exceptions_and_nothing_else():
    assert set(GROUPS["dmcontrol"]["task"]) == set(TASKS)
    base = flat(compose("domain=walker", "task_name=run"))
    for task, expected in TASKS.items():
        config = compose(f"task={task}")
        actual = (
            config.environment.action_repeat, config.agent.learning_rate, config.aux_optimizer.learning_rate,
            config.mlr.mask.cube_depth, config.mlr.tau,
        )  # fmt: skip
        assert actual == expected
        changed = {key for key, value in flat(config).items() if base[key] != value}
        assert changed <= {
            "task", "settings", "domain", "task_name", "run_dir", "environment.action_repeat", "agent.learning_rate",
            "aux_optimizer.learning_rate", "mlr.mask.cube_depth", "mlr.tau",
        }  # fmt: skip


def test_any_other_task_of_the_suite():
    config = compose("domain=quadruped", "task_name=walk")
    assert (config.task, config.environment.camera) == ("quadruped_walk", 2)
    assert config.run_dir.startswith("runs/dmcontrol/quadruped_walk/")


def test_a_budget_is_environment_steps_and_wins_over_the_preset():
    for task, (repeat, *_) in TASKS.items():
        for budget in (100, 500):
            config = compose(f"task={task}", f"budget={budget}k")
            assert (config.env_steps, config.agent_steps) == (budget * 1000, budget * 1000 // repeat)
            assert config.eval_every * repeat == 5000
    assert compose("preset=cpu").env_steps == 100_000
    assert compose("preset=cpu", "budget=500k").env_steps == 500_000


ORIGINALS = {  # what sets a released agent apart from the same auxiliary on this one
    "curl": ("curl", {"agent.encoder.filters": 32, "agent.batch_size": 128, "aux_optimizer.encoder_rate_factor": 2.0}),
    "spr": ("spr", {"aux_optimizer.encoder_rate_factor": 2.0, "replay.window": 7}),
    "playvirtual": ("playvirtual", {"aux_optimizer.encoder_rate_factor": 2.0, "replay.window": 7}),
    "sac_ae": ("autoencoder", {
        "environment.image_size": 84, "agent.encoder.filters": 32, "agent.encoder.tanh": True,
        "agent.batch_size": 128, "replay.capacity": 1_000_000, "agent.learning_rate": 1e-3,
        "aux_optimizer.learning_rate": 1e-3,
    }),
    "drq": ("none", {
        "environment.image_size": 84, "agent.encoder.filters": 32, "agent.encoder.tanh": True,
        "agent.log_prob_floor": 0.0, "agent.rl_views": 2, "agent.rl_pad": 4, "agent.rl_crop_last_offset": True,
        "agent.learning_rate": 1e-3, "agent.temperature_learning_rate": 1e-3, "agent.temperature_beta1": 0.9,
        "agent.critic_encoder_tau": 0.01,
    }),
}  # fmt: skip


@pytest.mark.parametrize("name", ORIGINALS)
def test_an_original_agent_is_its_exceptions_and_brings_its_auxiliary(name):
    auxiliary, expected = ORIGINALS[name]
    config = compose("task=cheetah_run", f"+original={name}")
    same = flat(compose("task=cheetah_run", f"auxiliary={auxiliary}"))
    assert config.auxiliary == auxiliary
    changed = {key: value for key, value in flat(config).items() if same[key] != value}
    assert {key: value for key, value in changed.items() if key not in ("experiment", "run_dir")} == expected


@pytest.mark.parametrize("auxiliary", ["curl", "autoencoder"])
def test_an_auxiliary_on_the_rl_batch_reads_no_windows(auxiliary):
    config = compose("task=cheetah_run", f"auxiliary={auxiliary}", "environment.episode_env_steps=32")
    assert config.augmentation is None and config.aux_networks is None
    rates = config.aux_optimizer
    assert (rates.learning_rate, rates.warmup_updates, rates.clip_norm) == (2e-4, 0, None)


REFUSED = [
    ("task=cartpole_swing", "did you mean cartpole_swingup?"),
    ("task=walker_run", "domain=D task_name=N"),
    ("", "task has no value: add task=NAME, or domain=D task_name=N"),
    ("seed=1", "task has no value"),
    ("domain=walker", "task_name has no value: add task_name=NAME, a task of domain=walker"),
    ("task=finger_spin env=Pendulum-v1", "exclude each other: leave one out"),
    ("task=finger_spin method=rainbow", "method=rainbow is not one of sac"),
    ("task=finger_spin suite=atari", "is dmcontrol with these: leave it out"),
    ("domain=walkr task_name=run", "no domain named 'walkr'; did you mean walker?"),
    ("domain=walker task_name=runn", "walker has no task named 'runn'; did you mean run?"),
    ("task=finger_spin domain=walker task_name=run", "leave task out"),
    ("domain=walker task_name=walk", "use task=walker_walk"),
    ("task=finger_spin environment.image_size=5000", "environment.image_size=5000 must be at most 1024"),
    ("task=finger_spin budget=200k", "no budget named"),
    ("task=finger_spin environment.action_repeat=3", "no multiple of environment.action_repeat=3"),
    ("task=finger_spin eval_every_env_steps=5001", "eval_every_env_steps=5001 is no multiple"),
    ("task=finger_spin replay.window=15", "mlr.mask.cube_depth"),
    ("task=finger_spin mlr.mask.patch_size=60", "of 1 cells hides none"),
    ("task=finger_spin agent.crop_size=101", "must be at most 100, the side of the image"),
    ("task=finger_spin agent.encoder.strides=[]", "agent.encoder.strides=[] must have 1 or more entries"),
    ("task=finger_spin agent.encoder.strides=[9,9,9]", "do not fit a crop"),
    ("task=finger_spin agent.encoder.latent=51", "must be even"),
    ("task=finger_spin loop.order=released", "leave it at overlapped"),
    ("task=finger_spin loop.learning_starts=16", "above replay.window=16"),
    ("task=finger_spin auxiliary=none loop.learning_starts=0", "must be at least 1"),
    ("task=finger_spin replay.capacity=33", "no window fits"),
    ("task=finger_spin environment.episode_env_steps=32", "does not fit an episode"),
    ("task=finger_spin agent.log_std_min=3", "below agent.log_std_max"),
    ("task=finger_spin aux_optimizer.warmup_updates=-1", "at least 0"),
    ("task=finger_spin aux_optimizer.clip_norm=0", "above 0"),
    ("task=finger_spin agent.critic_tau=2", "agent.critic_tau=2.0 must be at most 1"),
    ("task=finger_spin agent.batchsize=2", "did you mean"),
    ("task=finger_spin auxiliary=none aux_optimizer.batchsize=2", "did you mean aux_optimizer.batch_size?"),
    ("task=finger_spin +mlr.weight_by_task.walker_wlak=2", "no task named 'walker_wlak'; did you mean walker_walk?"),
    ("task=finger_spin +camera_by_domain.walkr=2", "no domain named 'walkr'; did you mean walker?"),
    ("task=finger_spin evaluation.episodes=0", "at least 1"),
    ("task=finger_spin auxiliary=autoencoder autoencoder.bits=9", "autoencoder.bits=9 must be at most 8"),
    ("task=finger_spin auxiliary=curl curl.temperature=0", "curl.temperature=0.0 must be above 0"),
    ("task=finger_spin auxiliary=spr replay.window=6", "spr.steps=6 reads 7 steps, more than replay.window=6"),
    ("task=finger_spin auxiliary=spr spr.projection=null", "spr.projection=null must be at least 1"),
    (
        "task=finger_spin auxiliary=playvirtual playvirtual.copies_per_action=true",
        "these are continuous: set it to false",
    ),
    ("task=finger_spin auxiliary=playvirtual playvirtual.copies=0", "playvirtual.copies=0 must be at least 1"),
    ("task=finger_spin agent.rl_views=0", "agent.rl_views=0 must be at least 1"),
    ("task=finger_spin agent.rl_pad=101", "agent.rl_pad=101 must be at most 100, the side of the image"),
    ("task=finger_spin original=drq", "write +original=drq"),
    ("task=finger_spin +original=dr", "no original named 'dr'; did you mean drq?"),
    ("task=finger_spin evaluation.workers=11", "at most evaluation.environments"),
]


@pytest.mark.parametrize("arguments, expected", REFUSED, ids=[arguments for arguments, _ in REFUSED])
def test_wrong_settings_are_one_line(tmp_path, monkeypatch, capsys, arguments, expected):
    monkeypatch.chdir(tmp_path)
    assert expected in refusal("dmcontrol", arguments.split(), capsys)
