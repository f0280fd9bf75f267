"""studies/visualize.py on runs of Masked World Models, and the figures that a training leaves."""

import pytest

from harness.exit_codes import DONE
from harness.run import run
from harness.run_folder import RunFolder
from recipes import load_recipe
from studies import visualize
from tests.conftest import composed

OWN = "env=tests.own_environments:PulledSeenDot"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "mwm"
    config = composed("mwm", folder, OWN, "video=false")
    assert run(config, load_recipe(config)) == DONE
    return config, RunFolder(folder)


def test_every_evaluation_with_an_episode_has_figures(trained):
    config, folder = trained
    names = sorted(path.name for path in folder.media.glob("world_model_*"))
    kinds = ("masking.png", "open_loop.csv", "open_loop.png", "prediction.png")
    assert names == [f"world_model_{step:09d}_{kind}" for step in (30, 60) for kind in kinds]  # none after step 0


def test_a_run_and_another_beside_it(trained, tmp_path, capsys):
    _, folder = trained
    before = {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")}
    arguments = ["--run", str(folder.path), "--beside", str(folder.path), "--out", str(tmp_path)]
    assert visualize.main(arguments) == 0
    names = {f"PulledSeenDot_{kind}" for kind in ("masking.png", "prediction.png", "open_loop.png", "open_loop.csv")}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert set(capsys.readouterr().out.split()) == {str(tmp_path / name) for name in names}
    assert before == {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")}


def test_a_run_of_another_method_stands_beside_nothing(finished_run, tmp_path, capsys):
    arguments = ["--run", str(finished_run), "--beside", str(finished_run), "--out", str(tmp_path / "out")]
    assert visualize.main(arguments) == 2
    assert "--beside" in capsys.readouterr().err and not (tmp_path / "out").exists()
