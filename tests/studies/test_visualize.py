"""studies/visualize.py: its files, and what it refuses."""

import re
import shutil

import numpy as np
import pytest
from PIL import Image

from studies import visualize

PNG_WIDTH = 1820


def check_files(out, task, steps):
    with Image.open(out / f"{task}_clip.png") as picture:
        assert picture.width == PNG_WIDTH and picture.height > 900
        assert len(np.unique(picture.convert("L"))) > 20
    with Image.open(out / f"{task}_clip.gif") as film:
        assert (film.n_frames, film.size) == (steps, (812, 332))
        shown = []
        for step in range(steps):
            film.seek(step)
            shown.append(np.asarray(film.convert("L")))
        assert all((before != after).any() for before, after in zip(shown, shown[1:], strict=False))
    with Image.open(out / f"{task}_strategies.png") as picture:
        picture.load()
    assert len(list(out.iterdir())) == 3
    assert all(path.stat().st_size < 400_000 for path in out.iterdir())


def test_a_game(tmp_path, capsys):
    out = tmp_path / "new" / "pictures"
    settings = ["game=pong", "preset=tiny", "mlr.mask.strategy=spatial", "mlr.mask.ratio=0.3"]
    assert visualize.main([*settings, "--out", str(out), "--seed", "3"]) == 0
    check_files(out, "pong", steps=4)
    printed = capsys.readouterr().out.splitlines()
    assert {str(path) for path in out.iterdir()} <= set(printed)


@pytest.mark.gl
def test_a_task(tmp_path):
    assert visualize.main(["task=cartpole_swingup", "preset=tiny", "--out", str(tmp_path)]) == 0
    check_files(tmp_path, "cartpole_swingup", steps=4)


def test_a_run(finished_run, tmp_path, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")}
    assert visualize.main(["--run", str(finished_run), "--out", str(tmp_path)]) == 0
    check_files(tmp_path, "pong", steps=4)
    output = capsys.readouterr().out
    assert "after 120 steps" in output
    own, hidden, visible, other, difference = map(float, re.findall(r"(-?\d\.\d{4}|nan)", output))
    assert all(-1 <= cosine <= 1.0001 for cosine in (own, hidden, visible, other))
    assert abs(own - other - difference) < 2e-4
    assert before == {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")}


@pytest.mark.parametrize(
    "arguments, line",
    [
        ([], "say what to show"),
        (["game=pong", "task=walker_walk"], "say what to show"),
        (["game=pomg"], "pong"),
        (["task=cartpole_swngup"], "cartpole_swingup"),
        (["game=pong", "mlr.mask.ratoi=0.3"], "mlr.mask.ratio"),
        (["game=pong,alien"], "several values"),
        (["game=pong", "auxiliary=none"], "auxiliary=mlr"),
        (["game=pong", "mlr.mask.strategy=none"], "hides nothing"),
        (["game=pong", "--seed", "x"], "--seed"),
        (["--run", "nowhere"], "no run folder"),
        (["--run", ".", "game=pong"], "leave out game=pong"),
        (["game=pong", "--out", "file/pictures"], "is a file"),
    ],
)
def test_wrong_input_is_one_line_and_exit_2(arguments, line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert visualize.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and line in error and len(error.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_run_without_a_whole_checkpoint_is_refused(finished_run, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(finished_run, copy)
    for path in copy.glob("checkpoints/0*/state.safetensors"):
        path.write_bytes(b"broken")
    assert visualize.main(["--run", str(copy), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "no checkpoint that can be shown" in error and len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()
