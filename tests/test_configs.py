"""The files in configs/: what they compose to, that every key is used, and how the command refuses the rest."""

import ast
import dataclasses
import os
import re
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import pytest
import yaml

from atari.config import AtariConfig, validate
from dmcontrol.config import DMControlConfig
from harness.command_line import Command, config_groups, launch, schema_keys

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "train_atari.py"
PRESETS = sorted(path.stem for path in (ROOT / "configs/atari/preset").glob("*.yaml"))
FIDELITIES = sorted(path.stem for path in (ROOT / "configs/atari/fidelity").glob("*.yaml"))
AUXILIARIES = sorted(path.stem for path in (ROOT / "configs/aux").glob("*.yaml"))
NAMES = {"aux", "fidelity", "preset", "experiment", "run_dir"}  # keys that only say what was chosen


def compose(*overrides: str) -> AtariConfig:
    return Command("atari", AtariConfig, validate).resolve(overrides)[1]


def flat(config, prefix: str = "") -> dict:
    """Every value of a configuration by its dotted key."""
    values = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            values |= flat(value, f"{prefix}{field.name}.")
        else:
            values[prefix + field.name] = value
    return values


def difference(a: AtariConfig, b: AtariConfig) -> dict[str, tuple]:
    a, b = flat(a), flat(b)
    return {key: (a[key], b[key]) for key in a if a[key] != b[key] and key not in NAMES}


def test_the_choices_are_the_documented_ones():
    assert {"full", "cpu", "quick", "tiny"} <= set(PRESETS)
    assert {"released", "paper"} <= set(FIDELITIES)
    assert {"mlr", "none"} <= set(AUXILIARIES)


@pytest.mark.parametrize("preset, fidelity, aux", list(product(PRESETS, FIDELITIES, AUXILIARIES)))
def test_every_combination_composes_and_is_valid(preset, fidelity, aux):
    config = compose(f"preset={preset}", f"fidelity={fidelity}", f"aux={aux}")
    assert isinstance(config, AtariConfig) and dataclasses.is_dataclass(config.mlr.mask)
    assert (config.preset, config.fidelity, config.aux) == (preset, fidelity, aux)
    assert config.run_dir == f"runs/atari/pong/{aux}-{fidelity}-{preset}/seed_1"


def entries(tree: dict, prefix: str = "") -> dict:
    values = {}
    for key, value in tree.items():
        values |= entries(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return values


GROUPS = {group: names for group, names in config_groups("atari").items() if group != "ablation"}  # test_ablations.py
CHOICES = [(group, name) for group, names in GROUPS.items() for name in names]


@pytest.mark.parametrize("group, name", CHOICES)
def test_what_a_chosen_file_says_wins_over_the_base(group, name):
    (file,) = [*ROOT.glob(f"configs/{group}/{name}.yaml"), *ROOT.glob(f"configs/atari/{group}/{name}.yaml")]
    stated = yaml.safe_load(file.read_text())
    stated.pop("defaults", None)
    values = flat(compose(f"{group}={name}"))
    assert {key: values[key] for key in entries(stated)} == entries(stated)


def test_the_default_is_the_paper_setting_of_the_released_code():
    config = compose()
    assert (config.preset, config.fidelity, config.aux) == ("full", "released", "mlr")
    expected = {
        "agent_steps": 100_000, "environment.image_size": 84, "environment.frame_stack": 4,
        "environment.action_repeat": 4, "environment.max_noops": 30, "environment.horizon": 27_000,
        "environment.sticky_actions": 0.0, "environment.terminal_on_life_loss": True,
        "agent.encoder.channels": [32, 64, 64], "agent.encoder.kernels": [8, 4, 3], "agent.encoder.strides": [4, 2, 1],
        "agent.hidden": 256, "agent.atoms": 51, "agent.v_min": -10.0, "agent.v_max": 10.0,
        "agent.head_gradient_scale": 2**-0.5, "agent.discount": 0.99, "agent.n_step": 10, "agent.batch_size": 32,
        "agent.learning_rate": 1e-4, "agent.adam_eps": 1.5e-4, "agent.adam_beta1": 0.9, "agent.adam_beta2": 0.999,
        "agent.clip_norm": 10.0, "agent.kl_floor": 1e-6, "agent.kl_ceiling": 1e6,
        "agent.epsilon_initial": 1.0, "agent.epsilon_final": 0.0,
        "agent.epsilon_start": 2000, "agent.epsilon_steps": 1,
        "replay.capacity": 100_000, "replay.alpha": 0.5, "replay.beta_initial": 0.4, "replay.beta_final": 1.0,
        "replay.beta_start": 2000, "replay.beta_end": 100_000, "replay.default_priority": 1.0,
        "replay.priority_eps": 1e-5, "augmentation.pad": 4, "augmentation.intensity": 0.05,
        "augmentation.intensity_clamp": 2.0,
        "mlr.seq_len": 16, "mlr.tau": 1.0, "mlr.norm_floor": 1e-3, "mlr.mask.strategy": "cube", "mlr.mask.ratio": 0.5,
        "mlr.mask.patch_size": 12, "mlr.mask.cube_depth": 8, "mlr.decoder.depth": 2, "mlr.decoder.heads": 1,
        "mlr.decoder.mlp_ratio": 2.0, "mlr.decoder.qkv_bias": False, "mlr.decoder.norm_eps": 1e-5,
        "loop.learning_starts": 2000, "loop.replay_ratio": 2.0,
        "evaluation.episodes": 100, "evaluation.epsilon": 0.001, "evaluation.horizon": 27_000,
    }  # fmt: skip
    values = flat(config)
    assert {key: values[key] for key in expected} == expected


def test_fidelity_changes_its_rows_and_nothing_else():
    assert difference(compose("fidelity=released"), compose("fidelity=paper")) == {
        "mlr.masked_scale": (255.0, 1.0),  # F1
        "mlr.mask.rounding": ("up", "down"),  # F2
        "agent.noisy_sigma0": (0.1, 0.5),  # F3
        "mlr.distance_scale": (1.0, 0.5),  # F5
        "agent.n_step_done": ("one_step", "n_step"),  # F6
        "augmentation.crop": ("resample", "slice"),  # F9
    }


@pytest.mark.parametrize("fidelity", FIDELITIES)
def test_the_weight_depends_on_the_game_in_every_fidelity(fidelity):  # F4
    for game, weight in {"pong": 5.0, "up_n_down": 5.0, "alien": 1.0}.items():
        assert compose(f"game={game}", f"fidelity={fidelity}").mlr.weight == weight
    assert compose("game=pong", "mlr.weight=3", f"fidelity={fidelity}").mlr.weight == 3.0
    assert compose("game=alien", "+mlr_weight_by_game.alien=2", f"fidelity={fidelity}").mlr.weight == 2.0


def test_the_baseline_differs_in_the_auxiliary_only():
    assert difference(compose("aux=mlr"), compose("aux=none")) == {}


def test_schedules_follow_the_lengths():
    config = compose("agent_steps=7000", "loop.learning_starts=900", "environment.horizon=50")
    assert (config.replay.capacity, config.replay.beta_end, config.replay.beta_start) == (7000, 7000, 900)
    assert (config.agent.epsilon_start, config.evaluation.horizon) == (900, 50)


def test_the_command_line_wins_over_preset_and_fidelity():
    config = compose("preset=tiny", "fidelity=paper", "agent.hidden=24", "agent.noisy_sigma0=0.3", "mlr.seq_len=8")
    assert (config.agent.hidden, config.agent.noisy_sigma0, config.mlr.seq_len) == (24, 0.3, 8)


@pytest.mark.parametrize("schema", [AtariConfig, DMControlConfig])
def test_every_key_is_read(schema):
    """Each field is read by the packages' code (checking it does not count) or by another value in configs/."""
    read = set()
    benchmark = schema.__module__.split(".")[0]
    for path in [
        *ROOT.glob(f"{benchmark}/**/*.py"),
        *(path for top in ("mlr", "harness", "studies", "scripts") for path in ROOT.glob(f"{top}/**/*.py")),
    ]:
        if path.name != "config.py":
            nodes = ast.walk(ast.parse(path.read_text()))
            read |= {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}
    for path in ROOT.glob("configs/**/*.yaml"):
        for expression in re.findall(r"\$\{.*", path.read_text()):
            read |= set(re.findall(r"\w+", expression))
    if benchmark == "dmcontrol":
        read.add("eval_every_env_steps")  # by the property `eval_every` of the configuration itself
    unread = [key for key in schema_keys(schema) if key.split(".")[-1] not in read]
    assert not unread


def test_every_file_belongs_to_a_group_or_a_benchmark():
    files = [path.relative_to(ROOT / "configs").with_suffix("") for path in ROOT.glob("configs/**/*.yaml")]
    for benchmark, other in (("atari", "dmcontrol"), ("dmcontrol", "atari")):
        grouped = {f"{group}/{name}" for group, names in config_groups(benchmark).items() for name in names}
        mine = [path for path in files if path.parts[0] != other]
        assert {"/".join(path.parts[-2:]) for path in mine if len(path.parts) > 1} == grouped


REFUSED = [
    ("game=pacmn", "did you mean"),
    ("mlr.mask.ration=0.3", "no key mlr.mask.ration; did you mean mlr.mask.ratio?"),
    ("mask_ratio=0.3", "did you mean mlr.mask.ratio?"),
    ("agent.batchsize=4", "did you mean agent.batch_size?"),
    ("preset=quik", "no preset named 'quik'; did you mean quick?"),
    ("fidelity=published", "choose one of paper, released"),
    ("aux=spr2000", "choose one of mlr, none"),
    ("seed=one", "seed must be an integer"),
    ("agent.n_step=2.5", "agent.n_step must be an integer"),
    ("mlr.seq_len=15", "mlr.mask.cube_depth"),
    ("mlr.mask.cube_depth=0", "mlr.mask.cube_depth"),
    ("mlr.mask.patch_size=85", "mlr.mask.patch_size"),
    ("mlr.mask.ratio=1.5", "mlr.mask.ratio"),
    ("mlr.mask.ratio=-0.1", "mlr.mask.ratio"),
    ("mlr.mask.ratio=nan", "mlr.mask.ratio"),
    ("mlr.mask.strategy=cubes", "mlr.mask.strategy"),
    ("agent.n_step=0", "agent.n_step"),
    ("agent.encoder.channels=[32,64]", "agent.encoder.channels"),
    ("loop.learning_starts=10", "loop.learning_starts"),
    ("agent_steps=0", "agent_steps"),
    ("checkpoint_every=0", "checkpoint_every"),
    ("agent.encoder.strides=[4,0,1]", "must all be at least 1"),
    ("agent.encoder.kernels=[8,4,30]", "do not fit an image"),
    ("agent.hidden=0", "at least 1"),
    ("agent.discount=7", "in 0..1"),
    ("agent.learning_rate=-1", "above 0"),
    ("agent.clip_norm=0", "above 0"),
    ("agent.batch_size=0", "at least 1"),
    ("agent.atoms=1", "at least 2"),
    ("mlr.weight=-1", "at least 0"),
    ("mlr.decoder.heads=5", "multiple of mlr.decoder.heads"),
    ("mlr.decoder.norm_eps=-1", "above 0"),
    ("+mlr_weight_by_game.alein=2", "did you mean 'alien'"),
    ("replay.capacity=20", "for these windows"),
    ("loop.learning_starts=5", "no window is complete"),
    ("augmentation.pad=500", "at most the side"),
    ("evaluation.environments=0", "at least 1"),
    ("evaluation.workers=-1", "at most evaluation.environments"),
    ("evaluation.workers=101", "at most evaluation.environments"),
    ("evaluation.timeout_seconds=0", "at least 1"),
    ("evaluation.epsilon=7", "a probability"),
    ("environment.sticky_actions=1", "a probability"),
    ("seed=-1", "at least 0"),
    ("threads=-1", "0..1024"),
    ("mlr.weight=1e300", "within"),
    ("device=foo", "auto, cpu, cuda"),
    ("run_dir=''", "name a folder"),
]


@pytest.mark.parametrize("argument, expected", REFUSED, ids=[argument for argument, _ in REFUSED])
def test_wrong_settings_are_one_line(tmp_path, monkeypatch, capsys, argument, expected):
    monkeypatch.chdir(tmp_path)
    code = launch("atari", AtariConfig, validate, lambda config: pytest.fail("it ran"), argv=[argument])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert expected in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def run_python(arguments: list, folder: Path) -> tuple[subprocess.CompletedProcess, float]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )
    return done, time.perf_counter() - start


def fastest_of_three(arguments: list, folder: Path, limit: float) -> subprocess.CompletedProcess:
    """The result of a command that must answer within `limit` seconds, unless the machine is busy three times."""
    for _ in range(3):
        done, seconds = run_python(arguments, folder)
        if seconds < limit:
            return done
    pytest.fail(f"{arguments} took {seconds:.1f} s")


@pytest.mark.parametrize("argument, expected", [REFUSED[0], REFUSED[1], REFUSED[9]])
def test_the_script_refuses_at_once_and_leaves_nothing(tmp_path, argument, expected):
    done = fastest_of_three([SCRIPT, argument], tmp_path, 2.0)
    assert (done.returncode, done.stdout) == (2, "")
    assert expected in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_script_shows_help_at_once(tmp_path):
    done = fastest_of_three([SCRIPT, "--help"], tmp_path, 1.0)
    assert done.returncode == 0 and "game=pong" in done.stdout and "preset=cpu|full|quick|tiny" in done.stdout
    assert len(done.stdout.splitlines()) < 40 and not list(tmp_path.iterdir())


def test_a_refused_setting_and_cfg_never_import_torch(tmp_path):
    program = (
        "import sys; from scripts.train_atari import AtariConfig, launch, run, validate\n"
        "for arguments in (['seed=x'], ['mlr.seq_len=15'], ['--cfg', 'job']):\n"
        "    print(launch('atari', AtariConfig, validate, run, argv=arguments), 'torch' in sys.modules)"
    )
    done, _ = run_python(["-c", program], tmp_path)
    lines = [line for line in done.stdout.splitlines() if line.endswith(("False", "True"))]
    assert [line for line in lines if line[0] in "02"] == ["2 False", "2 False", "0 False"]
