"""Whole tiny runs on the real physics: what is on disk, resuming, evaluating, loading."""

import json
import shutil
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from commands import evaluate, inspect_run
from harness.config import ConfigError
from harness.inspection import inspect
from harness.report.scores import read_runs
from harness.run import run
from harness.run_folder import RunFolder
from recipes import load_agent
from tests.conftest import ROOT, make_dmcontrol_config
from tests.recipes import DMCONTROL
from tests.test_runs import assert_losses_near, learned, read, wait_for
from tests.waiting import HANG

pytestmark = pytest.mark.gl
SCRIPT = [sys.executable, "scripts/train_dmcontrol.py"]


def test_a_finished_run_holds_what_the_layout_says(finished_dmcontrol_run):
    folder = RunFolder(finished_dmcontrol_run)
    rows = read(folder.metrics)
    assert [int(row["agent_steps"]) for row in rows] == list(range(10, 61, 10))
    assert [int(row["env_steps"]) for row in rows] == list(range(80, 481, 80))
    assert rows[-1]["updates"] == "30"
    expected = {
        "critic_loss", "actor_loss", "entropy", "temperature", "temperature_loss", "q_mean", "aux/loss",
        "aux/learning_rate", "aux/latent_spread", "aux/cosine_hidden",
    }  # fmt: skip
    assert all(np.isfinite(float(rows[-1][f"train/{key}"])) for key in expected)
    episodes = read(folder.evaluations)
    assert [(row["env_steps"], row["agent_steps"], row["episode"]) for row in episodes] == [
        (str(env_steps), str(env_steps // 8), episode) for env_steps in (0, 240, 480) for episode in "01"
    ]
    assert all(row["episode_agent_steps"] == "20" for row in episodes)
    manifest = json.loads(folder.manifest.read_text())
    assert manifest["renderer"] and manifest["starts"][0]["versions"]["mujoco"]
    assert cv2.imread(str(folder.media / "learning_curve.png")).std() > 0
    video = cv2.VideoCapture(str(folder.media / "episode_000000060.mp4"))
    assert int(video.get(cv2.CAP_PROP_FRAME_COUNT)) == 20
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(12.5)  # 8 steps of 0.01 s


def test_the_report_reads_it(finished_dmcontrol_run):
    (run,) = read_runs([finished_dmcontrol_run])
    assert (run.suite, run.task, run.method, run.is_finished) == ("dmcontrol", "cartpole_swingup", "mlr", True)
    assert run.env_steps == 480 and 0 <= run.final <= 20


def test_a_killed_run_resumes_and_ends_as_if_nothing_had_happened(finished_dmcontrol_run, tmp_path):
    """Killed after a checkpoint, stopped by SIGUSR1 after the next one, then finished."""
    folder = RunFolder(tmp_path / "run")
    command = [*SCRIPT, "task=cartpole_swingup", "preset=tiny", f"run_dir={folder.path}", "device=cpu", "threads=1"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    wait_for(folder.checkpoints / "000000025", process)
    process.kill()
    process.communicate()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    wait_for(folder.checkpoints / "000000050", process)
    process.send_signal(signal.SIGUSR1)
    output, _ = process.communicate(timeout=HANG)
    assert process.returncode == 75 and "resumed at agent step 25" in output
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANG, check=False)
    assert finished.returncode == 0, finished.stderr
    assert "resumed at agent step" in finished.stdout
    assert learned(folder.metrics) == learned(RunFolder(finished_dmcontrol_run).metrics)
    assert read(folder.evaluations) == read(RunFolder(finished_dmcontrol_run).evaluations)
    name = "checkpoints/000000060/state.safetensors"
    expected, actual = load_file(finished_dmcontrol_run / name), load_file(folder.path / name)
    assert expected.keys() == actual.keys()
    assert [key for key in expected if not torch.equal(expected[key], actual[key])] == []
    digests = [[part[:2] for part in inspect(path)] for path in (finished_dmcontrol_run, folder.path)]
    assert digests[0] == digests[1] and len(digests[0]) == 9


def test_a_run_in_bfloat16(finished_dmcontrol_run, tmp_path, capsys):
    config = make_dmcontrol_config(tmp_path / "run", "precision=bf16", "env_steps=336", "eval_every_env_steps=0")
    assert run(config, DMCONTROL) == 0
    assert "bf16" in capsys.readouterr().out
    assert_losses_near(tmp_path / "run", finished_dmcontrol_run)


def test_evaluate_and_inspect_scripts(finished_dmcontrol_run, tmp_path, capsys):
    rows = tmp_path / "rows.csv"
    arguments = [str(finished_dmcontrol_run), "--episodes", "2", "--video", "--csv", str(rows), "--device", "cpu"]
    assert evaluate.main(arguments) == 0
    scores = [float(row["score"]) for row in read(rows)]
    output = capsys.readouterr().out
    assert f"score  {np.mean(scores):.1f}" in output and {row["env_steps"] for row in read(rows)} == {"480"}
    (video,) = RunFolder(finished_dmcontrol_run).media.glob("evaluation_*.mp4")
    video.unlink()
    assert inspect_run.main([str(finished_dmcontrol_run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [
        "weights", "optimisers", "replay", "generators", "environment", "counters", "metrics.csv", "evaluations.csv",
        "episodes.csv",
    ]  # fmt: skip
    assert all(len(line.split()[1]) == 64 for line in lines)


def test_evaluate_with_workers_plays_the_same_episodes(finished_dmcontrol_run, tmp_path):
    found = []
    for workers in ("0", "2"):
        arguments = ["--episodes", "3", "--device", "cpu", "--csv", str(tmp_path / "rows.csv")]
        assert evaluate.main([str(finished_dmcontrol_run), *arguments, "--workers", workers]) == 0
        found.append(read(tmp_path / "rows.csv"))
    assert found[0] == found[1] and len(found[0]) == 3


def test_load_agent(finished_dmcontrol_run):
    agent = load_agent(finished_dmcontrol_run)
    observations = np.random.default_rng(0).integers(0, 256, (3, 9, 40, 40), dtype=np.uint8)
    actions = agent.act(observations)
    assert actions.shape == (3, 1) and actions.dtype == np.float32 and (abs(actions) < 1).all()
    latents = agent.encoder(torch.from_numpy(observations))
    assert latents.shape == (3, 16) and not latents.requires_grad
    with pytest.raises(ValueError, match="expected uint8"):
        agent.act(observations[0])


def test_weights_of_another_configuration_are_refused(finished_dmcontrol_run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(finished_dmcontrol_run, copy)
    RunFolder(copy).saved_weights().write_bytes(b"damaged")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_agent(copy)
