"""The wheel, built and installed where nothing else of the project is."""

import csv
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.slow
ONE_BY_ONE = """
import sys
from commands import main
for line in sys.argv[1].splitlines():
    sys.argv[1:] = line.split()
    assert main() == 0, line
"""  # in one process, so that torch is imported once
TINY = ["preset=tiny", "device=cpu", "threads=1", "agent_steps=66", "evaluation.horizon=10", "video=false"]


@pytest.fixture(scope="module")
def mlr(tmp_path_factory):
    """Runs `mlr` in an empty folder, in an environment that shares this one's packages but not the project."""
    place = tmp_path_factory.mktemp("place")
    source = place / "source"  # pip builds in it
    left_out = (".*", "__pycache__", "*.egg-info", "build", "tests", "runs")
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*left_out))
    pip = [sys.executable, "-m", "pip"]
    quiet = {"check": True, "capture_output": True}
    offline = ["--quiet", "--no-deps", "--no-index", "--no-cache-dir"]
    wheels = place / "wheels"
    subprocess.run([*pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", wheels, source], **quiet)
    [wheel] = wheels.glob("*.whl")
    venv.create(place / "venv", symlinks=True)
    python = place / "venv" / "bin" / "python"
    packages = place / "venv" / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    packages.joinpath("shared.pth").write_text(sysconfig.get_path("purelib"))
    subprocess.run([*pip, "--python", python, "install", *offline, wheel], **quiet)
    shutil.rmtree(source)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    (place / "work").mkdir()

    def run(*arguments: str, program: tuple = (place / "venv" / "bin" / "mlr",)) -> str:
        command = [str(word) for word in (*program, *arguments)]
        done = subprocess.run(command, cwd=place / "work", env=clean, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    run.folder, run.packages, run.several = place / "work", packages, (python, "-c", ONE_BY_ONE)
    return run


def test_a_run_is_trained_scored_inspected_drawn_and_reported(mlr):
    mlr("train", "atari", "game=pong", *TINY, "run_dir=run")
    others = ("evaluate run --episodes 1", "inspect run", "visualize --run run", "report run --out report --repeats 10")
    printed = mlr("\n".join(others), program=mlr.several)
    assert all(word in printed for word in ("score", "weights", "pong_clip.png"))
    with (mlr.folder / "report" / "tables" / "atari.csv").open() as file:
        scores = {row["game"]: row for row in csv.DictReader(file)}
    assert scores["alien"]["MLR, published"] == "990.1"
    assert scores["pong"]["ours: MLR, preset tiny, agent steps 66"]
    assert "</html>" in (mlr.folder / "report" / "index.html").read_text()


def test_a_sweep_runs_an_ablation(mlr):
    settings = ["suite=atari", "tasks=pong", "seeds=1", "ablation=tau_1", *TINY, "loop.replay_ratio=0"]
    assert "1 done" in mlr("sweep", *settings)
    [manifest] = mlr.folder.glob("runs/atari/pong/*/seed_1/manifest.json")
    assert str(mlr.packages) in manifest.read_text()


def test_everything_that_is_configured_is_there(mlr):
    installed = mlr.packages / "harness" / "configs"
    assert {path.relative_to(installed) for path in installed.rglob("*.yaml")} == {
        path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.yaml")
    }
    assert "task: walker_walk" in mlr("train", "dmcontrol", "task=walker_walk", "--cfg", "job")
    assert not (mlr.packages / "configs").exists() and not (mlr.packages / "scripts").exists()
    assert Path(mlr.packages / "commands" / "train_atari.py").is_file()
