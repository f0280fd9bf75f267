"""Whole tiny runs of Masked World Models: layout, stops, kills in the pretraining, evaluation, the trained agent."""

import os
import signal
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from safetensors.torch import load_file

from commands import evaluate, inspect_run, report, sweep
from harness.exit_codes import DONE, RESUME_ME
from harness.inspection import inspect
from harness.operations import operations_by_variant, run_operations
from harness.recipe import Spaces
from harness.report.scores import read_runs
from harness.run import run
from harness.run_folder import RunFolder, checkpoint_names
from harness.schedule import count_kinds
from mwm.agent import MWMAgent
from mwm.method import MWM
from recipes import COMMANDS, load_agent, load_recipe
from tests.conftest import composed
from tests.test_runs import export_encoder, read

OWN = "env=tests.own_environments:PulledSeenDot"  # pictures without a renderer, and a column "success"
PRETRAINING = 31 + 2  # updates after agent step 20
ROUNDS = 8  # after agent steps 21, 26, ..., 56


class Killed(BaseException):
    """Ends a run as a kill does: nothing more is saved."""


def make_config(folder, *settings):
    return composed("mwm", folder, OWN, *settings)


def train(config):
    return run(config, load_recipe(config))


def digests(folder):
    return [part[:2] for part in inspect(folder)]


@contextmanager
def at_update(number, act):
    """Calls `act` before the update of this number, counted from 0."""
    update, made = MWMAgent.update, []

    def watched(*arguments):
        if len(made) == number:
            act()
        made.append(arguments[1:])
        return update(*arguments)

    MWMAgent.update = watched
    try:
        yield made
    finally:
        MWMAgent.update = update


def stop():
    os.kill(os.getpid(), signal.SIGTERM)


def kill():
    raise Killed


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An uninterrupted run, and what every update was told."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    with at_update(-1, kill) as made:
        assert train(make_config(folder)) == DONE
    return SimpleNamespace(folder=RunFolder(folder), made=made)


def test_the_updates_are_those_of_the_schedule(finished):
    kinds = [(step, kind) for _, step, kind in finished.made]
    assert kinds[:PRETRAINING] == [(19, "autoencoder"), (19, "dynamics"), *[(19, "autoencoder")] * 30, (19, "dynamics")]
    later = [(step, kind) for step in range(20, 60, 5) for kind in ("autoencoder", "dynamics")]
    assert kinds[PRETRAINING:] == later and len(later) == 2 * ROUNDS


def test_a_finished_run_holds_what_the_layout_says(finished):
    rows = read(finished.folder.metrics)
    assert [int(row["env_steps"]) for row in rows] == list(range(20, 121, 20))
    assert rows[-1]["updates"] == str(PRETRAINING + 2 * ROUNDS)
    names = ("autoencoder/image_loss", "autoencoder/reward_loss", "dynamics/token_loss", "dynamics/kl_loss")
    names += ("behaviour/actor_loss", "behaviour/critic_loss")
    assert rows[0]["train/dynamics/kl_loss"] == ""  # before the first update
    assert all(np.isfinite(float(rows[-1][f"train/{name}"])) for name in names)
    episodes = read(finished.folder.evaluations)
    assert [(row["agent_steps"], row["episode"]) for row in episodes] == [
        (str(steps), episode) for steps in (0, 30, 60) for episode in "01"
    ]
    assert {row["success"] for row in episodes} <= {"0.0", "1.0"} and {row["method"] for row in episodes} == {"mwm"}
    assert cv2.imread(str(finished.folder.media / "learning_curve.png")).std() > 0
    assert list(finished.folder.media.glob("episode_000000060.mp4"))


def test_runs_that_are_stopped_and_killed_end_as_if_nothing_had_happened(finished, tmp_path, capsys):
    """Stopped in the pretraining, killed after it, and stopped in the middle of an episode."""
    config = make_config(tmp_path / "run")
    folder = RunFolder(config.run_dir)
    with at_update(12, stop):
        assert train(config) == RESUME_ME
    assert "stopped after agent step 20 and 13 of its 33 updates" in capsys.readouterr().out
    assert checkpoint_names(folder.checkpoints) == ["000000019+000000013"]
    with at_update(26, kill), pytest.raises(Killed):
        train(config)
    assert "resumed at agent step 20 and 13 of its 33 updates" in capsys.readouterr().out
    assert checkpoint_names(folder.checkpoints)[-1] == "000000025"
    with at_update(3, stop):
        assert train(config) == RESUME_ME
    assert "resumed at agent step 25\n" in capsys.readouterr().out
    assert train(config) == DONE
    assert digests(folder.path) == digests(finished.folder.path)
    assert read(folder.evaluations) == read(finished.folder.evaluations)


def test_a_run_may_be_prolonged(finished, tmp_path):
    config = make_config(tmp_path / "run", "env_steps=80")
    assert train(config) == DONE
    assert train(replace(config, env_steps=120)) == DONE
    final = "000000060.safetensors"
    ours, expected = (load_file(RunFolder(path).weights / final) for path in (config.run_dir, finished.folder.path))
    assert ours.keys() == expected.keys() and all(torch.equal(ours[name], expected[name]) for name in ours)


def test_evaluate_inspect_and_report(finished, tmp_path, capsys):
    rows = tmp_path / "rows.csv"
    arguments = [str(finished.folder.path), "--episodes", "2", "--video", "--csv", str(rows), "--device", "cpu"]
    assert evaluate.main(arguments) == 0
    assert "score  " in capsys.readouterr().out and len(read(rows)) == 2
    assert inspect_run.main([str(finished.folder.path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {"weights", "optimisers", "replay", "generators"} <= {line.split()[0] for line in lines}
    (found,) = read_runs([finished.folder.path])
    assert (found.suite, found.method, found.is_finished) == ("gymnasium", "mwm", True)
    assert report.main([str(finished.folder.path), "--out", str(tmp_path / "report"), "--repeats", "10"]) == 0


def test_a_pixel_baseline_trains_resumes_and_acts(tmp_path):
    config = make_config(tmp_path / "whole", "world_model=pixels", "env_steps=80", "eval_every_env_steps=0")
    assert train(config) == DONE
    other = replace(config, run_dir=str(tmp_path / "stopped"))
    with at_update(3, stop):
        assert train(other) == RESUME_ME
    assert train(other) == DONE
    assert digests(other.run_dir) == digests(config.run_dir)
    rows = read(RunFolder(config.run_dir).metrics)
    assert rows[-1]["updates"] == str(2 + 4) and float(rows[-1]["train/dynamics/pixel_loss"]) > 0
    agent, pictures = load_agent(config.run_dir), np.zeros((1, 3, 32, 32), np.uint8)
    assert agent.act(pictures, np.array([True])).shape == (1, 1)
    embedding = agent.encoder(torch.from_numpy(pictures))
    assert embedding.shape == (1, agent.parts["dynamics"].pool.width) and not embedding.requires_grad


def test_the_trained_agent_for_other_code(finished, tmp_path):
    agent = load_agent(finished.folder.path)
    pictures = np.random.default_rng(0).integers(0, 256, (1, 3, 32, 32), dtype=np.uint8)
    actions = agent.act(pictures, np.array([True]))
    assert actions.shape == (1, 1) and actions.dtype == np.float32 and (abs(actions) <= 1).all()
    again = load_agent(finished.folder.path).act(torch.from_numpy(pictures), torch.tensor([True]))
    assert np.array_equal(again, actions)
    with pytest.raises(ValueError, match=r"expected uint8 \[B, 3, 32, 32\], got torch.uint8 \[3, 32, 32\]"):
        agent.act(pictures[0], np.array([True]))
    for count, first in ((2, [True, True]), (1, [1])):
        with pytest.raises(ValueError, match="expected 1 pictures, and as many bools"):
            agent.act(pictures.repeat(count, axis=0), np.array(first))
    tokens = agent.encoder(torch.from_numpy(pictures))
    assert tokens.shape == (1, 1 + 16, 16) and not tokens.requires_grad
    export_encoder(agent, tmp_path)


def test_operations_of_a_run_count_each_kind_as_often_as_it_comes():
    config = COMMANDS["mwm"].resolve(["task=window_close", "preset=tiny"])
    spaces = Spaces(*load_spaces(config))
    kinds = count_kinds(MWM.make_schedule(config), config.agent_steps)
    assert kinds == {"autoencoder": 31 + ROUNDS, "dynamics": 2 + ROUNDS}
    (_, autoencoder), (_, dynamics) = operations_by_variant(MWM, config, spaces)
    expected = (31 + ROUNDS) * autoencoder + (2 + ROUNDS) * dynamics
    assert run_operations(MWM, config, spaces, kinds) == expected > 1e6


def load_spaces(config):
    return Box(0, 255, config.observation_shape, np.uint8), Box(-1, 1, (4,), np.float32)


def test_a_sweep_plans_runs_with_an_axis_of_the_section_and_an_ablation(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = ["suite=mwm", "tasks=window_close,dmc_cartpole_balance", "seeds=2", "preset=tiny"]
    assert sweep.main([*settings, "mwm.mask_ratio=0.5,0.75", "ablation=base,stem_patch", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "16 runs"
    assert any("metaworld/window_close/mwm-stem_patch-mask_ratio_0.5-released-tiny/seed_2" in line for line in lines)
    assert all("train_mwm.py task=" in line for line in lines[:-1])
