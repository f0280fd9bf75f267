"""Tiny runs of every auxiliary on each suite: train, evaluate, stop, resume."""

from pathlib import Path

import pytest

from auxiliaries import AUXILIARIES
from harness.exit_codes import DONE, RESUME_ME
from harness.report.scores import read_run
from harness.run import run
from tests.conftest import AUXILIARIES_OF
from tests.test_unchanged_runs import SUITES, numbers, stop_request

TASKS = {"atari": "pong", "dmcontrol": "cartpole_swingup"}
SMALL = {"atari": (), "dmcontrol": ("agent.batch_size=4",)}
MARKS = {"atari": [], "dmcontrol": [pytest.mark.gl]}
CASES = [
    pytest.param(suite, setting, marks=MARKS[suite], id=f"{suite}-{setting}")
    for suite in SUITES
    for setting in (f"auxiliary={name}" for name in AUXILIARIES_OF[suite] if name != "mlr")
]
ORIGINALS = {"atari": ("spr", "playvirtual"), "dmcontrol": ("spr", "playvirtual", "curl", "drq", "sac_ae")}
SETTINGS = [
    pytest.param(suite, f"+original={name}", marks=MARKS[suite])
    for suite in SUITES
    for name in ORIGINALS[suite]
    if name != "drq"  # whose agent draws shifts of its own, and is stopped
]
CASES += [pytest.param("dmcontrol", "+original=drq", marks=MARKS["dmcontrol"])]


def play(suite, setting, folder: Path, interrupted: bool) -> Path:
    parts = SUITES[suite]
    config = parts.make_config(folder, "video=false", *parts.settings, *SMALL[suite], setting)
    if interrupted:
        with stop_request(parts.environment, parts.stop):
            assert run(config, parts.parts) == RESUME_ME
    assert run(config, parts.parts) == DONE
    return folder


@pytest.mark.parametrize("suite, setting", CASES)
def test_a_run_that_was_stopped_ends_as_one_that_was_not(suite, setting, tmp_path):
    folders = [play(suite, setting, tmp_path / name, name == "stopped") for name in ("whole", "stopped")]
    whole, stopped = (numbers(folder, {}) for folder in folders)
    assert whole == stopped
    if setting.removeprefix("auxiliary=") in AUXILIARIES:
        assert "train/aux/loss" in whole["metrics.csv"]
    assert_finished(suite, folders[0])


@pytest.mark.parametrize("suite, setting", SETTINGS)
def test_a_run_with_the_settings_of_a_released_agent(suite, setting, tmp_path):
    folder = play(suite, setting, tmp_path, interrupted=False)
    assert "train/aux/loss" in numbers(folder, {})["metrics.csv"]
    assert_finished(suite, folder)


def assert_finished(suite, folder):
    read = read_run(folder / "evaluations.csv")
    assert (read.task, read.is_finished) == (TASKS[suite], True)
