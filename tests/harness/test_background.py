"""Evaluations beside the training: the process itself, and runs in which it takes long, dies, or is given up."""

import os
import signal
from functools import partial

import pytest
import torch

from harness import evaluation
from harness.background import Background
from harness.errors import WorkerLost
from harness.inspection import inspect
from harness.logs import CsvLog
from harness.parts import evaluate_weights
from harness.run import run
from harness.run_folder import RunFolder
from tests.conftest import make_config
from tests.recipes import ATARI
from tests.waiting import HANG, until

SMALL = (
    "agent_steps=66", "eval_every=33", "checkpoint_every=40", "evaluation.horizon=10", "auxiliary=none", "video=false",
)  # fmt: skip


def evaluate(weights, index, video, watch, workers):
    if index == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    watch(1)
    return [{"score": index}, {"threads": torch.get_num_threads(), "workers": workers}]


def wait(background):
    """The rows, once they are there."""
    found = []
    until(lambda: found.append(background.rows(0.05)) or found[-1] is not None, pause=0)
    return found[-1]


def test_evaluations_one_after_the_other_until_the_process_dies(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    background = Background(evaluate, 2, HANG)
    try:
        for index in (5, 6):
            assert not background.busy
            background.start("weights", index, None)
            assert background.busy
            assert wait(background) == [{"score": index}, {"threads": 3, "workers": 2}]
            assert background.finished == 1 and background.seconds > 0
        background.start("weights", "kill", None)
        with pytest.raises(WorkerLost, match=r"the process for evaluations died \(SIGKILL\)"):
            wait(background)
    finally:
        background.close()


def test_a_gpu_is_chosen_where_an_evaluation_is_played(monkeypatch, tmp_path):
    """A process in the background would use the first one for what names none."""

    def choose(device):
        raise LookupError(device)

    monkeypatch.setattr(torch.cuda, "set_device", choose)
    evaluate = partial(evaluate_weights, make_config(tmp_path), ATARI, torch.device("cuda:1"))
    with pytest.raises(LookupError, match="cuda:1"):
        evaluate(tmp_path, 0, None, None)


def digests(folder):
    return [part[:2] for part in inspect(folder)]


@pytest.fixture(scope="module")
def in_place(tmp_path_factory):
    """A run whose evaluations are in place."""
    folder = tmp_path_factory.mktemp("runs") / "in_place"
    assert run(make_config(folder, *SMALL), ATARI) == 0
    return folder


def test_a_run_with_a_worker_in_the_background_ends_like_one_in_place(in_place, tmp_path, capsys):
    config = make_config(tmp_path / "run", *SMALL, "evaluation.background=true", "evaluation.workers=1")
    assert run(config, ATARI) == 0
    assert digests(tmp_path / "run") == digests(in_place)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("evaluat")]
    assert [line.split(":")[0] for line in lines] == [
        line
        for step in (0, 33, 66)
        for line in (f"evaluating agent step {step} in the background", f"evaluation after agent step {step}")
    ]
    assert all("frames/s" in line for line in lines[1::2])
    weights = [
        sorted(path.name for path in RunFolder(folder).weights.iterdir()) for folder in (in_place, tmp_path / "run")
    ]
    assert weights[0] == weights[1] == ["000000066.safetensors"]


class Stuck:
    """A background whose rows do not come: at poll `polls` it calls `act`."""

    def __init__(self, polls, act):
        self._polls, self._act = polls, act
        self.busy, self.finished, self.closed = False, 0, False

    def __call__(self, evaluate, workers, timeout_seconds):
        return self

    def start(self, weights, index, video):
        self.busy = True

    def rows(self, seconds):
        self._polls -= 1
        if self._polls == 0:
            self._act()

    def close(self):
        self.closed = True


def test_a_stop_gives_up_what_is_pending_and_the_next_start_makes_up_for_it(in_place, tmp_path, monkeypatch, capsys):
    stuck = Stuck(50, lambda: os.kill(os.getpid(), signal.SIGTERM))
    monkeypatch.setattr(evaluation, "Background", stuck)
    folder = RunFolder(tmp_path / "run")
    assert run(make_config(folder.path, *SMALL, "evaluation.background=true"), ATARI) == 75
    assert stuck.closed and not CsvLog(folder.evaluations).read()
    assert "stopped after agent step 49" in capsys.readouterr().out
    assert [int(path.stem) for path in sorted(folder.weights.iterdir())] == [0, 33, 49]  # what pending ones need stays
    assert run(make_config(folder.path, *SMALL), ATARI) == 0
    assert digests(folder.path) == digests(in_place)


def test_a_lost_process_costs_one_line_and_the_evaluation_is_played_here(in_place, tmp_path, monkeypatch, capsys):
    def lose():
        raise WorkerLost("the process for evaluations died (SIGKILL)")

    monkeypatch.setattr(evaluation, "Background", lambda *arguments: Stuck(3, lose))
    folder = tmp_path / "run"
    assert run(make_config(folder, *SMALL, "evaluation.background=true"), ATARI) == 0
    assert capsys.readouterr().out.count("died (SIGKILL): the evaluation is played again") == 3
    assert digests(folder) == digests(in_place)
