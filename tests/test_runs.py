"""Whole tiny runs on the real emulator: what is on disk, resuming, evaluating, loading."""

import csv
import fcntl
import json
import os
import pty
import shlex
import shutil
import signal
import subprocess
import sys
import termios
import time
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from commands import evaluate
from harness.config import ConfigError
from harness.run import run
from harness.run_folder import RunFolder, read_config
from recipes import load_agent, load_environment
from tests.conftest import ROOT, make_config
from tests.recipes import ATARI
from tests.waiting import HANG, until

SCRIPT = [sys.executable, "scripts/train_atari.py", "game=pong"]


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def learned(path):
    """Rows of metrics.csv without what differs between equal runs."""
    return [{key: value for key, value in row.items() if not key.startswith("time/")} for row in read(path)]


def header(path):
    return path.read_text().splitlines()[0]


def test_a_finished_run_holds_what_the_layout_says(finished_run):
    folder = RunFolder(finished_run)
    rows = read(folder.metrics)
    assert [int(row["agent_steps"]) for row in rows] == list(range(20, 121, 20))
    assert [int(row["frames"]) for row in rows] == list(range(80, 481, 80))
    assert rows[-1]["updates"] == "120"
    expected = {
        "rl_loss", "aux/loss", "loss", "grad_norm_encoder_head", "aux/grad_norm_decoder", "q_mean", "priority", "beta",
        "aux/latent_spread", "aux/dead_units", "aux/cosine_hidden", "aux/cosine_visible", "aux/cosine_margin",
        "rl_latent_spread_of_fresh", "rl_dead_channels", "episode_return",
    }  # fmt: skip
    assert {f"train/{key}" for key in expected} <= rows[-1].keys()
    assert all(np.isfinite(float(rows[-1][f"train/{key}"])) for key in expected - {"episode_return"})
    assert rows[0]["train/aux/loss"] == ""  # before the first update
    episodes = read(folder.evaluations)
    assert [row["episode"] for row in episodes] == ["0", "1"]
    assert all(row["agent_steps"] == "120" and row["episode_agent_steps"] == "61" for row in episodes)
    assert sorted(path.name for path in folder.checkpoints.glob("0*")) == ["000000100", "000000120"]
    assert cv2.imread(str(folder.media / "learning_curve.png")).std() > 0
    video = cv2.VideoCapture(str(folder.media / "episode_000000120.mp4"))
    assert int(video.get(cv2.CAP_PROP_FRAME_COUNT)) == 61
    assert (video.get(cv2.CAP_PROP_FRAME_WIDTH), video.get(cv2.CAP_PROP_FRAME_HEIGHT)) == (320, 420)
    manifest = json.loads(folder.manifest.read_text())
    assert manifest["rom_md5"] == "60e0ea3cbe0913d39803477945e9e5ec"


def test_a_finished_run_says_so_and_stops(finished_run, capsys):
    before = {path: path.stat().st_mtime_ns for path in RunFolder(finished_run).checkpoints.rglob("*")}
    assert run(make_config(finished_run), ATARI) == 0
    assert "is finished" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in RunFolder(finished_run).checkpoints.rglob("*")}


def test_a_signal_during_the_imports_ends_a_run_with_75_and_leaves_nothing(tmp_path):
    command = [*SCRIPT, "preset=tiny", f"run_dir={tmp_path / 'run'}", "device=cpu"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=HANG)
    assert process.returncode == 75 and output == ("", "") and not (tmp_path / "run").exists()


@pytest.mark.parametrize("ignored, code", [(False, 75), (True, 0)])
def test_a_closed_terminal_saves_a_run_and_costs_nothing_under_nohup(tmp_path, ignored, code):
    ours, theirs = pty.openpty()

    def prepare():
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)

    folder = RunFolder(tmp_path / "run")
    command = [*SCRIPT, "preset=tiny", f"run_dir={folder.path}", "device=cpu", "threads=1", "video=false"]
    command += ["agent_steps=82", "evaluation.horizon=20"]
    streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    process = subprocess.Popen(command, cwd=ROOT, preexec_fn=prepare, start_new_session=True, **streams)
    os.close(theirs)
    wait_for(folder.metrics, process)
    os.close(ours)
    assert process.wait(HANG) == code
    assert len(list(folder.checkpoints.glob("0*"))) > 0 and folder.evaluations.is_file() == ignored


def test_ctrl_c_into_a_pipe_saves_a_run(tmp_path):
    """It ends `tee` as well, before the run has printed its last lines."""
    folder = RunFolder(tmp_path / "run")
    command = [*SCRIPT, "preset=tiny", f"run_dir={folder.path}", "device=cpu", "threads=1", "video=false"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(folder.metrics, process)
    process.stdout.close()
    process.send_signal(signal.SIGINT)
    assert process.wait(HANG) == 75 and len(list(folder.checkpoints.glob("0*"))) > 0
    assert process.stderr.read().count("\n") == 1


def test_an_evaluation_whose_reader_is_gone_ends_well(finished_run):
    command = shlex.join([sys.executable, "scripts/evaluate.py", str(finished_run), "--episodes", "1"])
    shell = ["bash", "-c", f"set -o pipefail; {command} | true"]
    result = subprocess.run(shell, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0 and result.stderr.count("\n") == 1, result.stderr


def test_a_run_in_bfloat16(finished_run, tmp_path, capsys):
    assert run(make_config(tmp_path / "run", "precision=bf16", "agent_steps=82", "evaluation.horizon=5"), ATARI) == 0
    assert "bf16" in capsys.readouterr().out
    assert_losses_near(tmp_path / "run", finished_run)


def assert_losses_near(run, other):
    """In the first rows that have losses, of trainings that differ in their precision."""
    rows = [next(row for row in read(folder / "metrics.csv") if row["train/aux/loss"]) for folder in (run, other)]
    losses = [{key: float(value) for key, value in row.items() if key.endswith("loss")} for row in rows]
    assert losses[0] == pytest.approx(losses[1], rel=0.05, abs=0.01) and losses[0] != losses[1]


def tensors(folder):
    return load_file(folder / "checkpoints" / "000000120" / "state.safetensors")


def test_a_killed_run_resumes_and_ends_as_if_nothing_had_happened(finished_run, tmp_path):
    """Stopped by SIGTERM between two checkpoints, killed outright after one, then finished."""
    folder = RunFolder(tmp_path / "run")
    command = [*SCRIPT, "preset=tiny", f"run_dir={folder.path}", "device=cpu", "threads=1"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    wait_for(folder.metrics, process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=HANG)
    if process.returncode == 0:
        pytest.fail(f"the run ended before the signal came: {output}")
    assert process.returncode == 75 and "the same command goes on" in output
    first = max(int(path.name) for path in folder.checkpoints.glob("0*"))
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    wait_for(folder.checkpoints / "000000100", process)
    process.kill()
    process.communicate()
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANG, check=False)
    assert finished.returncode == 0, finished.stderr
    assert first < 120 and "resumed at agent step" in finished.stdout
    assert learned(folder.metrics) == learned(RunFolder(finished_run).metrics)
    assert header(folder.metrics) == header(RunFolder(finished_run).metrics)
    assert read(folder.evaluations) == read(RunFolder(finished_run).evaluations)
    expected, actual = tensors(finished_run), tensors(folder.path)
    assert expected.keys() == actual.keys()
    assert [key for key in expected if not torch.equal(expected[key], actual[key])] == []


def wait_for(path, process):
    until(lambda: path.exists() or process.poll() is not None, pause=0.005)


def test_a_broken_checkpoint_is_one_line_and_exit_2(finished_run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(finished_run, copy)
    (copy / "evaluations.csv").unlink()
    for path in copy.glob("checkpoints/0*/state.safetensors"):
        path.write_bytes(b"broken")
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    command = [*SCRIPT, "preset=tiny", f"run_dir={copy}", "device=cpu", "threads=1"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANG, check=False)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr and len(result.stderr.splitlines()) == 1
    assert "no usable checkpoint" in result.stderr
    assert before == {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}


def test_pending_evaluations_are_made_up_for(finished_run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(finished_run, copy)
    folder = RunFolder(copy)
    lines = folder.evaluations.read_text().splitlines(keepends=True)
    folder.evaluations.write_text("".join(lines[:-1]))  # a kill while the rows were written
    folder.weights_at(120).unlink()
    assert run(make_config(copy), ATARI) == 0
    assert read(folder.evaluations) == read(RunFolder(finished_run).evaluations)


def test_evaluations_in_between(tmp_path):
    folder = RunFolder(tmp_path / "run")
    config = make_config(folder.path, "eval_every=50", "evaluation.horizon=10", "video=false", "auxiliary=none")
    assert run(config, ATARI) == 0
    rows = read(folder.evaluations)
    assert [(row["evaluation"], row["agent_steps"]) for row in rows] == [
        (index, step) for index, step in (("0", "0"), ("1", "50"), ("2", "100"), ("3", "120")) for _ in range(2)
    ]
    assert not list(folder.media.glob("*.mp4"))


def test_evaluate_script(finished_run, tmp_path, capsys):
    rows = tmp_path / "rows.csv"
    arguments = [str(finished_run), "--episodes", "3", "--video", "--csv", str(rows), "--device", "cpu"]
    assert evaluate.main(arguments) == 0
    output = capsys.readouterr().out
    assert "over 3 episodes" in output
    scores = [float(row["score"]) for row in read(rows)]
    assert f"score  {np.mean(scores):.1f}" in output
    (video,) = RunFolder(finished_run).media.glob("evaluation_*.mp4")
    assert str(video) in output
    os.unlink(video)
    assert evaluate.main(arguments) == 0  # the same seed
    assert [float(row["score"]) for row in read(rows)] == scores


def test_evaluate_with_workers_plays_the_same_episodes(finished_run, tmp_path, capsys):
    found = []
    for workers in ("0", "2"):
        rows = tmp_path / f"rows_{workers}.csv"
        assert evaluate.main([str(finished_run), "--video", "--workers", workers, "--csv", str(rows)]) == 0
        assert "2 episodes in" in capsys.readouterr().out
        (video,) = RunFolder(finished_run).media.glob("evaluation_*.mp4")
        found.append((read(rows), video.read_bytes()))
        video.unlink()
    assert found[0] == found[1]
    assert evaluate.main([str(finished_run), "--workers", "3"]) == 2
    assert "--workers 3 must be in 0..2" in capsys.readouterr().err


@pytest.mark.parametrize("arguments, line", [(["nowhere"], "no run folder"), ([".", "--episodes", "0"], "at least 1")])
def test_evaluate_refuses_in_one_line(arguments, line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert evaluate.main(arguments) == 2
    error = capsys.readouterr().err
    assert line in error and len(error.splitlines()) == 1


def test_evaluate_refuses_what_a_run_cannot_do(finished_run, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(finished_run, copy)
    for options in ("--device foo", "--device cuda:99", f"--csv {tmp_path}/none/rows.csv", f"--csv {copy}/metrics.csv"):
        assert evaluate.main([str(copy), *options.split()]) == 2
    assert (copy / "metrics.csv").is_file()
    RunFolder(copy).saved_weights().write_bytes(b"damaged")
    assert evaluate.main([str(copy)]) == 2
    RunFolder(copy).config.write_text("benchmark: atari\ngame: pong\n")
    assert evaluate.main([str(copy)]) == 2
    RunFolder(copy).config.write_text("benchmark: chess\n")
    assert evaluate.main([str(copy)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 7 and all(line.startswith("error: ") for line in errors)


def test_load_agent(finished_run, tmp_path):
    agent = load_agent(finished_run)
    observations = np.random.default_rng(0).integers(0, 256, (5, 4, 84, 84), dtype=np.uint8)
    actions = agent.act(observations)
    assert actions.shape == (5,) and set(actions) <= set(range(6))
    assert agent.q_values(observations).argmax(1).tolist() == actions.tolist()
    latents = agent.encoder(torch.from_numpy(observations))
    assert latents.shape == (5, agent.encoder.latent_dim) and not latents.requires_grad
    assert agent.act(torch.from_numpy(observations)).tolist() == actions.tolist()
    with pytest.raises(ValueError, match=r"expected uint8 \[B, 4, 84, 84\], got torch.uint8 \[4, 84, 84\]"):
        agent.act(observations[0])
    with pytest.raises(ConfigError, match="no run folder"):
        load_agent(tmp_path)


def test_weights_alone_say_whose_they_are_and_play(finished_run, tmp_path):
    file = shutil.copy(RunFolder(finished_run).saved_weights(), tmp_path / "alone.safetensors")
    with safe_open(file, "numpy") as opened:
        about = json.loads(opened.metadata()["run"])
    assert about["config"] == json.loads(json.dumps(read_config(finished_run))) and about["frames"] == 480
    alone, agent = load_agent(file), load_agent(finished_run)
    with closing(load_environment(finished_run, seed=3)) as environment:
        observation, _ = environment.reset()
        for _ in range(5):
            [action] = alone.act(observation[None])
            assert action == agent.act(observation[None])[0]
            observation, *_ = environment.step(action)
    save_file(load_file(file), file)
    with pytest.raises(ConfigError, match="does not say which run"):
        load_agent(file)


@pytest.mark.parametrize("run", ["finished_run", pytest.param("finished_dmcontrol_run", marks=pytest.mark.gl)])
def test_the_encoder_is_exported_in_one_call(run, request, tmp_path):
    export_encoder(load_agent(request.getfixturevalue(run)), tmp_path)


def export_encoder(agent, tmp_path):
    """Exports as the README does, and compares what the files give."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (3, *agent.observation_shape), dtype=torch.uint8, generator=generator)
    latents = agent.encoder(pixels)
    assert not agent.encoder.training  # or the export warns
    torch.export.save(torch.export.export(agent.encoder, (pixels,)), tmp_path / "encoder.pt2")
    assert torch.equal(torch.export.load(tmp_path / "encoder.pt2").module()(pixels), latents)
    torch.onnx.export(agent.encoder, (pixels,), tmp_path / "encoder.onnx")
    session = ReferenceEvaluator(str(tmp_path / "encoder.onnx"))
    [found] = session.run(None, {session.input_names[0]: pixels.numpy()})
    assert np.abs(found - latents.numpy()).max() < 1e-5 < latents.std()
