"""CUDA MPS for runs that share a GPU, with a stand-in for its daemon."""

import os
import sys

import pytest
from rich.console import Console

from commands import sweep
from harness.sweeps.config import read_sweep_config
from harness.sweeps.mps import CONTROL, LOG, PIPE, sharing
from tests.harness.sweeps.test_attempt import make_run

DAEMON = """#!/bin/sh
echo "$* ${CUDA_VISIBLE_DEVICES-all} $CUDA_DEVICE_ORDER $CUDA_MPS_PIPE_DIRECTORY" >> "$CALLS"
[ "$1" = -d ] && { echo "$REFUSAL"; exit ${CODE:-0}; }
cat >> "$CALLS"
"""


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """File of the calls of the stand-in, which is the one thing in PATH beside the shell's own."""
    for name in (PIPE, "CUDA_DEVICE_ORDER", "REFUSAL", "CODE"):
        monkeypatch.delenv(name, raising=False)
    daemon = tmp_path / CONTROL
    daemon.write_text(DAEMON)
    daemon.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    return tmp_path / "calls"


def test_it_starts_for_runs_that_share_and_stops_at_the_end_also_after_an_error(calls):
    said = []
    with pytest.raises(KeyboardInterrupt), sharing(["2"], 4, said.append) as environment:
        assert os.path.isdir(environment[PIPE]) and os.path.isdir(environment[LOG])
        assert calls.read_text() == f"-d all PCI_BUS_ID {environment[PIPE]}\n"
        raise KeyboardInterrupt
    assert calls.read_text().endswith("quit\n") and not os.path.exists(environment[PIPE])
    assert said == ["runs on one GPU compute at the same time, through CUDA MPS"]


def test_a_second_ctrl_c_says_how_to_end_it(calls, tmp_path, monkeypatch, capsys):
    def leave(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep, "run_side_by_side", leave)
    monkeypatch.setattr(os, "_exit", sys.exit)
    runs = [make_run(tmp_path, "", f"run_{i}") for i in range(2)]
    with pytest.raises(SystemExit):
        sweep.run_here(runs, read_sweep_config(["runs_per_gpu=2"]), Console(soft_wrap=True))
    pipe = calls.read_text().split()[3]
    assert capsys.readouterr().out.endswith(f"afterwards: echo quit | {PIPE}={pipe} {CONTROL}\n")


@pytest.mark.parametrize("gpus, runs", [(["0", "1"], 2), ([], 3)])
def test_it_is_not_started_where_nothing_is_shared(calls, gpus, runs):
    said = []
    with sharing(gpus, runs, said.append) as environment:
        assert environment == {} and said == [] and not calls.exists()


def test_without_it_runs_take_turns_and_the_sweep_says_so(calls, monkeypatch, tmp_path):
    said = []
    monkeypatch.setenv("CODE", "1")
    monkeypatch.setenv("REFUSAL", "An instance is running already")
    with sharing(["2"], 2, said.append) as environment:
        assert environment == {}
    (tmp_path / CONTROL).unlink()
    with sharing(["2"], 2, said.append) as environment:
        assert environment == {}
    monkeypatch.setenv(PIPE, "/run/mps")  # somebody's own
    with sharing(["2"], 2, said.append) as environment:
        assert environment == {}
    assert "take turns" in said[0] and "An instance is running already" in said[0]
    assert said[1:] == [
        f"runs on one GPU take turns: {CONTROL} is not there",
        f"runs on one GPU use the MPS of {PIPE}=/run/mps",
    ]
    assert "quit" not in calls.read_text()
