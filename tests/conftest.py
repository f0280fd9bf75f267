"""Runs and configurations that many tests share."""

from pathlib import Path

import pytest

from atari.config import AtariConfig, validate
from mlr.training.cli import Command

ROOT = Path(__file__).parents[1]


def make_config(run_dir: Path, *overrides: str) -> AtariConfig:
    """A tiny run of Pong in `run_dir`, composed as the command line does."""
    settings = ["preset=tiny", f"run_dir='{run_dir}'", "device=cpu", "threads=1", *overrides]
    return Command("atari", AtariConfig, validate).resolve(settings)[1]


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory) -> Path:
    """The folder of a tiny run that trained, evaluated and drew."""
    from atari.training import run

    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert run(make_config(folder)) == 0
    return folder
