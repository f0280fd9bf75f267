"""A method with memory and two phases of updates, through whole runs: stopped, killed, and evaluated elsewhere."""

import os
import signal
from dataclasses import replace

import pytest

from harness.config import ConfigError
from harness.exit_codes import DONE, RESUME_ME
from harness.inspection import inspect
from harness.run import run
from harness.run_folder import RunFolder, checkpoint_names
from tests.harness.cue import make_config
from tests.harness.recurrent import EVERY, METHOD, PRETRAINING, RECIPE, RecurrentAgent, TwoPhases
from tests.test_runs import read


class Killed(BaseException):
    """Ends a run as a kill does: nothing more is saved."""


def stop():
    os.kill(os.getpid(), signal.SIGTERM)


def kill():
    raise Killed


class Watched(RecurrentAgent):
    """Notes the updates that it makes, and calls `act` before that of a number."""

    def __init__(self, config, made, at, act):
        super().__init__(config.seed)
        self.made, self.at, self.call = made, at, act

    def update(self, replay, step, kind):
        if len(self.made) == self.at:
            self.call()
        self.made.append((step, kind))
        return super().update(replay, step, kind)


def train(config, made, at=None, act=None):
    """A run that notes its updates in `made`. Returns the exit code."""
    method = replace(METHOD, make_agent=lambda config, spaces, device: Watched(config, made, at, act))
    return run(config, replace(RECIPE, method=method))


def digests(folder):
    return [part[:2] for part in inspect(folder)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of an uninterrupted run, and its updates."""
    folder, made = tmp_path_factory.mktemp("runs") / "whole", []
    assert train(make_config(folder), made) == DONE
    return folder, made


def test_the_updates_are_those_of_the_schedule(whole):
    folder, made = whole
    later = [(step, kind) for step in range(20 + EVERY, 70, EVERY) for kind in ("a", "b")]
    assert made == [(20, "a")] * PRETRAINING + later
    schedule = TwoPhases(20)
    assert schedule.total(70) == sum(len(schedule.due(step)) for step in range(70)) == len(made)
    rows = read(RunFolder(folder).metrics)
    updates = [sum(step < int(row["agent_steps"]) for step, _ in made) for row in rows]
    assert [int(row["updates"]) for row in rows] == updates
    assert [bool(row["train/loss_a"]) for row in rows] == [False, False] + [True] * 5
    assert [bool(row["train/loss_b"]) for row in rows] == [False] * 2 + [True] * 5


def test_evaluation_rows_have_the_success_of_their_episodes(whole):
    rows = read(RunFolder(whole[0]).evaluations)
    assert len(rows) == 9 and list(rows[0])[-2:] == ["episode_agent_steps", "success"]
    assert {row["success"] for row in rows} == {"0.0", "1.0"}


def test_a_run_that_is_stopped_in_the_middle_of_a_phase_ends_as_if_nothing_had_happened(whole, tmp_path, capsys):
    folder, made = RunFolder(tmp_path / "run"), []
    config = make_config(folder.path)
    assert train(config, made, at=16, act=stop) == RESUME_ME
    assert "stopped after agent step 21 and 17 of its 40 updates" in capsys.readouterr().out
    assert checkpoint_names(folder.checkpoints) == ["000000020+000000015", "000000020+000000017"]
    assert not list(folder.weights.glob("*21*")), "weights of half an agent step"
    assert train(config, made, at=45, act=stop) == RESUME_ME
    output = capsys.readouterr().out
    assert "resumed at agent step 21 and 17 of its 40 updates" in output and "stopped after agent step 36" in output
    assert train(config, made) == DONE
    assert made == whole[1] and digests(folder.path) == digests(whole[0])


def test_a_run_that_is_killed_goes_on_from_the_save_in_the_middle_of_a_phase(whole, tmp_path, capsys):
    folder, made = RunFolder(tmp_path / "run"), []
    config = make_config(folder.path)
    with pytest.raises(Killed):
        train(config, made, at=38, act=kill)
    assert checkpoint_names(folder.checkpoints) == ["000000020+000000015", "000000020+000000030"]
    (folder.checkpoints / "000000020+000000030" / "state.safetensors").write_bytes(b"damaged")
    with pytest.raises(Killed):
        train(config, made, at=66, act=kill)
    output = capsys.readouterr().out
    assert "000000020+000000030 cannot be used" in output and "resumed at agent step 21 and 15 of" in output
    assert train(config, []) == DONE
    assert digests(folder.path) == digests(whole[0])


def test_rows_after_a_save_in_the_middle_of_a_phase_are_made_again(tmp_path):
    """The phase belongs to the agent step whose row and evaluation come after it."""
    folders = [RunFolder(tmp_path / name) for name in ("killed", "serial")]
    configs = [replace(make_config(folder.path), log_every=21, eval_every=21) for folder in folders]
    with pytest.raises(Killed):
        train(configs[0], [], at=41, act=kill)
    assert [row["agent_steps"] for row in read(folders[0].metrics)] == ["21"]
    for name in checkpoint_names(folders[0].checkpoints):
        assert name.startswith("000000020+"), "this test needs a resume in the middle of the phase"
    assert train(configs[0], []) == train(configs[1], []) == DONE
    assert digests(folders[0].path) == digests(folders[1].path)


def test_evaluations_with_memory_are_the_same_in_the_background_and_with_workers(whole, tmp_path):
    config = make_config(tmp_path / "run", workers=1, background=True)
    assert run(config, RECIPE) == DONE
    assert digests(config.run_dir) == digests(whole[0])


def test_a_long_phase_in_the_order_that_cannot_stop_inside_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="loop.order=released"):
        run(make_config(tmp_path / "run", order="overlapped"), RECIPE)
    assert not list(tmp_path.iterdir())
