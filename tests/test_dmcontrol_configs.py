"""The DMControl files in configs/: what they compose to, and how the command refuses the rest."""

import pytest

from dmcontrol.config import DMControlConfig, validate
from harness.command_line import Command, config_groups, launch
from scripts.train_dmcontrol import HINTS
from tests.test_configs import ROOT, difference, fastest_of_three, flat

GROUPS = config_groups("dmcontrol")


def compose(*overrides: str) -> DMControlConfig:
    named = any(override.startswith(("task=", "domain=")) for override in overrides)
    settings = overrides if named else ("task=ball_in_cup_catch", *overrides)
    return Command("dmcontrol", DMControlConfig, validate).resolve(settings)[1]


@pytest.mark.parametrize("preset", GROUPS["preset"])
@pytest.mark.parametrize("fidelity", GROUPS["fidelity"])
@pytest.mark.parametrize("aux", GROUPS["aux"])
def test_every_combination_composes_and_is_valid(preset, fidelity, aux):
    config = compose(f"preset={preset}", f"fidelity={fidelity}", f"aux={aux}")
    assert (config.preset, config.fidelity, config.aux) == (preset, fidelity, aux)
    assert config.run_dir == f"runs/dmcontrol/ball_in_cup_catch/{aux}-{fidelity}-{preset}/seed_1"


def test_the_default_is_the_paper_setting_of_the_released_code():
    config = compose()
    assert (config.preset, config.fidelity, config.aux) == ("full", "released", "mlr")
    expected = {
        "env_steps": 100_000, "eval_every_env_steps": 5000, "environment.image_size": 100,
        "environment.frame_stack": 3, "environment.action_repeat": 4, "environment.camera": 0,
        "environment.episode_env_steps": 1000, "environment.shadow_size": 0,
        "agent.encoder.filters": 64, "agent.encoder.strides": [2, 1, 1, 1], "agent.encoder.latent": 50,
        "agent.crop_size": 84, "agent.hidden": 1024, "agent.log_std_min": -10.0, "agent.log_std_max": 2.0,
        "agent.discount": 0.99, "agent.batch_size": 512, "agent.learning_rate": 1e-3, "agent.adam_beta1": 0.9,
        "agent.adam_beta2": 0.999, "agent.initial_temperature": 0.1, "agent.temperature_learning_rate": 1e-4,
        "agent.temperature_beta1": 0.5, "agent.critic_tau": 0.01, "agent.critic_encoder_tau": 0.05,
        "agent.update_every": 2, "replay.capacity": 100_000, "augmentation.pad": 0, "augmentation.intensity": 0.05,
        "augmentation.intensity_clamp": 2.0, "mlr.seq_len": 16, "mlr.tau": 0.05, "mlr.norm_floor": 1e-3,
        "mlr.masked_scale": 1.0, "mlr.mask.strategy": "cube", "mlr.mask.ratio": 0.5, "mlr.mask.patch_size": 10,
        "mlr.mask.cube_depth": 8, "mlr.mask.rounding": "down", "mlr.decoder.depth": 2, "mlr.decoder.heads": 1,
        "mlr.decoder.mlp_ratio": 2.0, "mlr.decoder.qkv_bias": False, "mlr.decoder.norm_eps": 1e-5,
        "mlr_agent.batch_size": 128, "mlr_agent.learning_rate": 5e-4, "mlr_agent.warmup_updates": 6000,
        "mlr_agent.warmup_start": 5e-4, "mlr_agent.clip_norm": 10.0, "mlr_agent.projection": 100,
        "mlr_agent.init_std": 0.02, "loop.learning_starts": 1000, "loop.replay_ratio": 1.0,
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
    assert set(GROUPS["task"]) == set(TASKS)
    base = flat(compose("domain=walker", "task_name=run"))
    for task, expected in TASKS.items():
        config = compose(f"task={task}")
        actual = (
            config.environment.action_repeat, config.agent.learning_rate, config.mlr_agent.learning_rate,
            config.mlr.mask.cube_depth, config.mlr.tau,
        )  # fmt: skip
        assert actual == expected
        changed = {key for key, value in flat(config).items() if base[key] != value}
        assert changed <= {
            "task", "settings", "domain", "task_name", "run_dir", "environment.action_repeat", "agent.learning_rate",
            "mlr_agent.learning_rate", "mlr.mask.cube_depth", "mlr.tau",
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


def test_fidelity_changes_its_rows_and_nothing_else():
    assert difference(compose("fidelity=released"), compose("fidelity=paper")) == {
        "mlr.distance_scale": (1.0, 0.5),  # F5
        "mlr_agent.redraw": (True, False),  # F7
        "augmentation.crop": ("resample", "slice"),  # F9
        "agent.rl_crop_last_offset": (False, True),  # F10
    }


REFUSED = [
    ("task=cartpole_swing", "did you mean cartpole_swingup?"),
    ("task=walker_run", "domain=D task_name=N"),
    ("seed=1", "domain has no value: add domain=value (or task=NAME"),
    ("domain=walker", "task_name has no value"),
    ("domain=walkr task_name=run", "no domain named 'walkr'; did you mean walker?"),
    ("domain=walker task_name=runn", "walker has no task named 'runn'; did you mean run?"),
    ("task=finger_spin domain=walker task_name=run", "leave task out"),
    ("domain=walker task_name=walk", "use task=walker_walk"),
    ("task=finger_spin environment.image_size=5000", "pixels a side"),
    ("task=finger_spin budget=200k", "no budget named"),
    ("task=finger_spin environment.action_repeat=3", "no multiple of environment.action_repeat=3"),
    ("task=finger_spin eval_every_env_steps=5001", "eval_every_env_steps=5001 is no multiple"),
    ("task=finger_spin mlr.seq_len=15", "mlr.mask.cube_depth"),
    ("task=finger_spin mlr.mask.patch_size=60", "of 1 cells hides none"),
    ("task=finger_spin agent.crop_size=101", "at most the side"),
    ("task=finger_spin agent.encoder.strides=[]", "at least one stride"),
    ("task=finger_spin agent.encoder.strides=[9,9,9]", "do not fit a crop"),
    ("task=finger_spin agent.encoder.latent=51", "must be even"),
    ("task=finger_spin loop.order=released", "leave it at overlapped"),
    ("task=finger_spin loop.learning_starts=16", "above mlr.seq_len"),
    ("task=finger_spin replay.capacity=33", "no window fits"),
    ("task=finger_spin environment.episode_env_steps=32", "does not fit an episode"),
    ("task=finger_spin agent.log_std_min=3", "below agent.log_std_max"),
    ("task=finger_spin mlr_agent.warmup_updates=0", "at least 1"),
    ("task=finger_spin mlr_agent.clip_norm=0", "above 0"),
    ("task=finger_spin agent.critic_tau=2", "in 0..1"),
    ("task=finger_spin agent.batchsize=2", "did you mean"),
    ("task=finger_spin evaluation.episodes=0", "at least 1"),
    ("task=finger_spin evaluation.workers=11", "at most evaluation.environments"),
]


@pytest.mark.parametrize("arguments, expected", REFUSED, ids=[arguments for arguments, _ in REFUSED])
def test_wrong_settings_are_one_line(tmp_path, monkeypatch, capsys, arguments, expected):
    monkeypatch.chdir(tmp_path)
    never = lambda config: pytest.fail("it ran")  # noqa: E731
    code = launch("dmcontrol", DMControlConfig, validate, never, hints=HINTS, argv=arguments.split())
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert expected in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_script_answers_at_once(tmp_path):
    script = ROOT / "scripts" / "train_dmcontrol.py"
    refused = fastest_of_three([script, "task=walker_wlak"], tmp_path, 2.0)
    assert refused.returncode == 2 and "did you mean walker_walk?" in refused.stderr
    shown = fastest_of_three([script, "--help"], tmp_path, 1.0)
    assert shown.returncode == 0 and "budget=100k|500k" in shown.stdout and len(shown.stdout.splitlines()) < 45
    assert not list(tmp_path.iterdir())
