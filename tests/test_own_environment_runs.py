"""Whole tiny runs on environments of a user's own: training, a stop and a restart, evaluation, another use."""

import os
import pickle
import re
import signal
import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from commands import evaluate, report
from harness.config import ConfigError
from harness.exit_codes import DONE, RESUME_ME
from harness.inspection import inspect
from harness.own_environment import OwnEnvironment
from harness.report.scores import read_runs
from harness.run import run
from harness.run_folder import RunFolder, read_manifest
from recipes import load_agent, load_recipe
from recipes import train as train_script
from tests.conftest import ROOT, make_config, make_dmcontrol_config
from tests.test_runs import read

HERE = "tests.own_environments"
RAINBOW = make_config, ("agent_steps=80", "loop.learning_starts=60", "evaluation.horizon=20", "evaluation.epsilon=0.5")
SAC = make_dmcontrol_config, ("env_steps=400", "loop.learning_starts=30", "eval_every_env_steps=0")
RUNS = [  # env, configuration, auxiliary, agent steps until the stop
    (f"{HERE}:Dot", RAINBOW, "mlr", 70),
    (f"{HERE}:SeenDot-v0", RAINBOW, "none", 70),
    (f"{HERE}:KeptDot", RAINBOW, "none", 70),
    (f"{HERE}:PulledDot", SAC, "mlr", 37),
]


@pytest.mark.parametrize("env, settings, auxiliary, stop", RUNS, ids=[env for env, *_ in RUNS])
def test_a_run_trains_resumes_and_evaluates(env, settings, auxiliary, stop, tmp_path, capsys):
    make, length = settings
    config = make(tmp_path / "serial", f"env={env}", f"auxiliary={auxiliary}", "environment.action_repeat=5", *length)
    assert (config.suite, config.task) == ("gymnasium", env.split(":")[1])
    assert train(config) == DONE
    output = capsys.readouterr().out
    assert "environment  tests.own_environments." in output and "400 env steps" in output
    manifest = read_manifest(config.run_dir)
    assert (manifest["env"], manifest["package_version"]) == (env, None)

    interrupted = replace(config, run_dir=str(tmp_path / "interrupted"))
    with stop_request(stop):
        assert train(interrupted) == RESUME_ME
    assert train(interrupted) == DONE
    output = capsys.readouterr().out
    assert f"resumed at agent step {stop}" in output and "went another way" not in output
    assert digests(config) == digests(interrupted)

    rows = tmp_path / "rows.csv"
    assert evaluate.main([config.run_dir, "--episodes", "3", "--csv", str(rows), "--device", "cpu"]) == 0
    evaluated = read(rows)
    assert {row["env_steps"] for row in evaluated} == {"400"} and len({row["score"] for row in evaluated}) == 3
    trained = read(RunFolder(config.run_dir).evaluations)
    for row in (*trained, *evaluated):
        assert "human_normalised" not in row and ("success" in row) == ("SeenDot" in env)
    (reported,) = read_runs([tmp_path / "serial"])
    assert (reported.suite, reported.task, reported.env_steps) == ("gymnasium", config.task, 400)
    assert reported.final == pytest.approx(np.mean([float(row["score"]) for row in trained]))
    assert len(load_agent(config.run_dir).act(np.zeros((1, *config.observation_shape), np.uint8))) == 1


def train(config):
    return run(config, load_recipe(config))


def digests(config):
    return [part[:2] for part in inspect(config.run_dir)]


@contextmanager
def stop_request(step):
    """Sends this process SIGTERM when an environment takes its `step`-th agent step."""
    taken, original = Counter(), OwnEnvironment.step

    def counted(self, action):
        taken[self] += 1
        if taken[self] == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, action)

    OwnEnvironment.step = counted
    try:
        yield
    finally:
        OwnEnvironment.step = original


def test_a_recipe_reaches_evaluations_in_processes_of_their_own(tmp_path):
    for config in (
        make_config(tmp_path, f"env={HERE}:Dot"),
        make_dmcontrol_config(tmp_path, f"env={HERE}:PulledDot"),
    ):
        recipe = load_recipe(config)
        assert pickle.loads(pickle.dumps(recipe)) == recipe


def test_episodes_without_a_window_are_refused_in_one_line(tmp_path):
    config = make_dmcontrol_config(tmp_path / "run", f"env={HERE}:ShortDot", "eval_every_env_steps=0")
    with pytest.raises(ConfigError, match="takes 5 agent steps of one episode; choose a smaller replay.window"):
        train(config)


def test_the_example_of_the_documentation_runs(tmp_path, monkeypatch):
    text = (ROOT / "docs" / "extending.md").read_text().split("## An environment of your own")[1]
    example = re.search(r"```python\n# (\S+)\n(.*?)```", text, re.DOTALL)
    commands = re.search(r"```\n(python.*?)```", text, re.DOTALL)[1].splitlines()
    training, evaluation, reporting = (command.split()[1:] for command in commands)
    (tmp_path / example[1]).write_text(example[2])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    smaller = ["device=cpu", "threads=1", "agent_steps=70"]
    assert (training[0], evaluation[0], reporting[0]) == (
        "scripts/train_atari.py",
        "scripts/evaluate.py",
        "scripts/report.py",
    )
    assert train_script("atari", argv=[*training[1:], *smaller]) == DONE
    assert evaluate.main([*evaluation[1:], "--device", "cpu", "--csv", "rows.csv"]) == DONE
    rows = read(tmp_path / "rows.csv")
    assert all(row["episode_agent_steps"] == "7" for row in rows)
    assert all((float(row["score"]) > 0) == (float(row["success"]) == 1) for row in rows)
    assert report.main([*reporting[1:], "--repeats", "10"]) == DONE
    row = read(tmp_path / "report" / "tables" / "gymnasium.csv")[0]
    trained = read(tmp_path / evaluation[1] / "evaluations.csv")
    score = np.mean([float(episode["score"]) for episode in trained])
    ours = "ours: MLR, preset tiny, agent steps 70, action repeat 1"
    assert row == {"task": "Catch", ours: f"{score:.1f}", f"{ours} seeds": "1"}
