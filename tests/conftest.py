"""Runs and configurations that many tests share."""

import functools
from pathlib import Path

import pytest

from atari.config import AtariConfig
from atari.config import validate as validate_atari
from dmcontrol.config import DMControlConfig
from dmcontrol.config import validate as validate_dmcontrol
from dmcontrol.rendering import choose_backend
from harness.command_line import Command
from harness.config import ConfigError

ROOT = Path(__file__).parents[1]


def pytest_runtest_setup(item):
    if item.get_closest_marker("gl") and missing_opengl():
        pytest.skip(missing_opengl())
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("torch finds no CUDA device")


@functools.cache
def missing_opengl() -> str:
    """Why nothing can be drawn here; empty if it can."""
    try:
        choose_backend()
    except ConfigError as error:
        return str(error)
    return ""


def make_config(run_dir: Path, *overrides: str) -> AtariConfig:
    """A tiny run of Pong in `run_dir`, composed as the command line does."""
    settings = ["preset=tiny", f"run_dir='{run_dir}'", "device=cpu", "threads=1", *overrides]
    return Command("atari", AtariConfig, validate_atari).resolve(settings)[1]


def make_dmcontrol_config(run_dir: Path, *overrides: str) -> DMControlConfig:
    """A tiny run of cartpole_swingup, or of the task among `overrides`, composed as the command line does."""
    task = [] if any(key.startswith(("task=", "domain=")) for key in overrides) else ["task=cartpole_swingup"]
    settings = ["preset=tiny", f"run_dir='{run_dir}'", "device=cpu", "threads=1", *task, *overrides]
    return Command("dmcontrol", DMControlConfig, validate_dmcontrol).resolve(settings)[1]


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory) -> Path:
    """The folder of a tiny run that trained, evaluated and drew."""
    from atari.training import ATARI
    from harness.run import run

    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert run(make_config(folder), ATARI) == 0
    return folder


@pytest.fixture(scope="session")
def finished_dmcontrol_run(tmp_path_factory) -> Path:
    """The folder of a tiny run that trained, evaluated and drew."""
    from dmcontrol.training import DMCONTROL
    from harness.run import run

    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert run(make_dmcontrol_config(folder), DMCONTROL) == 0
    return folder
