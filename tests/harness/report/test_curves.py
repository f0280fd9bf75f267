import csv
import shutil

import cv2
import pytest

from harness.logs import CsvLog
from harness.report import figures
from harness.report.curves import draw_run
from harness.run_folder import RunFolder


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def copied(finished_run, tmp_path):
    shutil.copytree(finished_run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "weights", "media"))
    return RunFolder(tmp_path / "run")


def drawn(monkeypatch, *arguments):
    """What `draw_run` hands over to be drawn, and the picture."""
    given, original = [], figures.draw_learning_curve

    def draw(*values, **size):
        given.append(values)
        return original(*values, **size)

    monkeypatch.setattr(figures, "draw_learning_curve", draw)
    path = draw_run(*arguments)
    return given[0], cv2.imread(str(path))


def test_a_run_with_an_auxiliary_gets_a_second_panel(copied, monkeypatch):
    row = {"agent_steps": 130, "env_steps": 130, "train/episode_return": -20.5}  # a tiny run ends no episode
    CsvLog(copied.metrics).append(row)
    agreement = ("cosine_hidden", "1 - cosine")
    (*_, references, points, panel), picture = drawn(monkeypatch, copied, {"random policy": -20.7}, agreement)
    metrics, evaluations = read(copied.metrics), read(copied.evaluations)
    cosines = [(int(row["env_steps"]), row["train/aux/cosine_hidden"]) for row in metrics]
    assert panel == ("1 - cosine", [(steps, pytest.approx(1 - float(value))) for steps, value in cosines if value])
    assert len(panel[1]) > 2 and references == {"random policy": -20.7}
    assert points["evaluation episodes"] == [(int(row["env_steps"]), float(row["score"])) for row in evaluations]
    assert points["training episodes"] == [(130, -20.5)]
    (*_, panel), other = drawn(monkeypatch, copied, {}, None)
    assert panel is None and picture.shape[0] > other.shape[0] and other.std() > 0


def test_a_run_without_metrics_of_its_auxiliary_has_one_panel(copied, monkeypatch):
    (*_, panel), _ = drawn(monkeypatch, copied, {}, ("unheard_of", "label"))
    assert panel is None


def test_a_run_without_a_single_row_still_has_a_picture(copied, monkeypatch):
    copied.metrics.unlink()
    copied.evaluations.unlink()
    _, picture = drawn(monkeypatch, copied, {"human": 1.0})
    assert picture.std() > 0
