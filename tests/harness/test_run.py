import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from harness.config import ConfigError
from harness.inspection import inspect
from harness.parts import choose_device, make_parts_that_fit
from harness.run import run
from harness.run_folder import RunFolder
from harness.training import train
from tests.conftest import ROOT, make_config
from tests.recipes import ATARI

FEW = ("agent_steps=66", "evaluation.horizon=10", "video=false", "auxiliary=none")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_devices_without_a_gpu():
    assert choose_device("auto").type == choose_device("cpu").type == "cpu"
    with pytest.raises(ConfigError, match="CUDA build"):
        choose_device("cuda")


def test_a_gpu_is_named_by_its_number(monkeypatch):
    """torch.cuda.set_device takes no device without one."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert [str(choose_device(name)) for name in ("auto", "cuda", "cuda:1")] == ["cuda:0", "cuda:0", "cuda:1"]
    assert [device.index for device in chosen] == [0, 0, 1]


def test_a_run_that_does_not_fit_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match="does not fit"):
        run(make_config(tmp_path / "run", "replay.capacity=1000000000000"), ATARI)
    assert not list(tmp_path.iterdir())


def test_a_length_that_the_run_has_passed_is_refused_before_anything_is_written(tmp_path):
    config, folder = make_config(tmp_path, "agent_steps=60"), RunFolder(tmp_path)
    for name, reached in (("000000060+000000002", 61), ("000000070", 70)):
        (folder.checkpoints / name).mkdir(parents=True)
        with pytest.raises(ConfigError, match=f"trained for {reached} agent steps, more than the 60 asked for"):
            train(config, folder, parts=None, console=None, stop=None, started=lambda: pytest.fail("it writes"))


@pytest.mark.parametrize(
    "device, error, expected",
    [
        ("cpu", RuntimeError("DefaultCPUAllocator: can't allocate memory"), ConfigError),
        ("cuda", torch.OutOfMemoryError("CUDA out of memory"), ConfigError),
        ("cuda", RuntimeError("CUDA error: an illegal memory access was encountered"), RuntimeError),
    ],
)
def test_only_a_refused_allocation_is_said_not_to_fit(device, error, expected):
    def make_agent(*arguments):
        raise error

    recipe = replace(ATARI, method=replace(ATARI.method, make_agent=make_agent))
    with pytest.raises(expected) as raised:
        make_parts_that_fit(make_config("unused"), recipe, torch.device(device))
    assert ("does not fit" in str(raised.value)) == (expected is ConfigError)


def with_agent(change):
    """Atari with an agent that `change` has had in its hands."""

    def make_agent(*arguments):
        agent = ATARI.method.make_agent(*arguments)
        change(agent)
        return agent

    return replace(ATARI, method=replace(ATARI.method, make_agent=make_agent))


def before_update(agent, act):
    update = agent.update

    def changed(replay, step, kind):
        act(replay)
        return update(replay, step, kind)

    agent.update = changed


def test_a_nan_that_lets_a_library_fail_is_named(tmp_path, capsys):
    """What fails first need not be what looks for NaNs."""

    def lose(replay):
        replay.priorities.leaves.fill_(float("nan"))
        raise IndexError("of a library")

    recipe = with_agent(lambda agent: before_update(agent, lose))
    assert run(make_config(tmp_path / "run", *FEW), recipe) == 70
    error = capsys.readouterr().err
    assert "replay/leaves holds a NaN" in error and error.count("\n") == 1
    assert "replay/leaves" in json.loads(RunFolder(tmp_path / "run").failure.read_text())["failure"]


def test_other_errors_stay_as_they_are(tmp_path):
    def fail(replay):
        raise LookupError("a mistake")

    with pytest.raises(LookupError, match="a mistake"):
        run(make_config(tmp_path / "run", *FEW), with_agent(lambda agent: before_update(agent, fail)))


def test_a_score_that_is_no_number_is_not_written(tmp_path, capsys):
    def make_environment(config, seed, index, training):
        environment = ATARI.suite.make_environment(config, seed, index, training)
        step = environment.step
        if not training:
            environment.step = lambda action: (*step(action)[:1], float("nan"), False, True, {})
        return environment

    recipe = replace(ATARI, suite=replace(ATARI.suite, make_environment=make_environment))
    assert run(make_config(tmp_path / "run", *FEW, "loop.replay_ratio=0"), recipe) == 70
    assert "a score of the evaluation after agent step 66" in capsys.readouterr().err
    assert not RunFolder(tmp_path / "run").evaluations.exists()


def test_a_folder_that_somebody_removed_is_one_line_and_stays_away(tmp_path, capsys):
    folder = tmp_path / "run"
    recipe = with_agent(lambda agent: before_update(agent, lambda replay: shutil.rmtree(folder, ignore_errors=True)))
    assert run(make_config(folder, *FEW, "log_every=5"), recipe) == 74
    error = capsys.readouterr().err
    assert "nothing was saved yet" in error and error.count("\n") == 1
    assert not folder.exists()


def test_a_signal_before_the_parts_are_made_is_honoured(tmp_path, capsys):
    def make_replay(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return ATARI.method.make_replay(*arguments)

    folder = tmp_path / "run"
    assert run(make_config(folder, *FEW), replace(ATARI, method=replace(ATARI.method, make_replay=make_replay))) == 75
    assert "stopped after agent step 0" in capsys.readouterr().out
    assert run(make_config(folder, *FEW), ATARI) == 0
    assert run(make_config(tmp_path / "other", *FEW), ATARI) == 0
    digests = [[part[:2] for part in inspect(tmp_path / name)] for name in ("run", "other")]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("keep, steps", [("true", [0, 22, 44, 50, 66]), ("false", [66])])
def test_older_weights_stay_if_asked_for(keep, steps, tmp_path):
    assert run(make_config(tmp_path, *FEW, "loop.replay_ratio=0", "eval_every=22", f"keep_weights={keep}"), ATARI) == 0
    assert sorted(int(file.stem) for file in (tmp_path / "weights").iterdir()) == steps


def test_a_run_in_a_folder_with_brackets_names_it(tmp_path, capsys):
    folder = tmp_path / "a[red]b[/x]:smile:"
    assert run(make_config(folder, *FEW, "loop.replay_ratio=0"), ATARI) == 0
    assert run(make_config(folder, *FEW, "loop.replay_ratio=0"), ATARI) == 0
    output = capsys.readouterr().out
    assert f"run folder   {folder}\n" in output and f"{folder} is finished" in output


@pytest.mark.parametrize("output, reason", [("> /dev/full", "No space left on device"), ("| head -3", "Broken pipe")])
def test_an_output_that_takes_no_more_is_one_line_and_the_run_goes_on(tmp_path, output, reason):
    settings = ["game=pong", "preset=tiny", "device=cpu", "threads=1", f"run_dir={tmp_path / 'run'}", *FEW]
    command = shlex.join([sys.executable, "scripts/train_atari.py", *settings, "loop.replay_ratio=0"])
    shell = ["bash", "-c", f"set -o pipefail; {command} {output}"]
    result = subprocess.run(shell, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0 and (tmp_path / "run" / "evaluations.csv").is_file()
    assert result.stderr == f"note: standard output takes no more ({reason}); the command goes on\n"
