"""Tasks outside the published tables: training, evaluation and report of tiny runs."""

import csv
from pathlib import Path

import pytest

from commands import evaluate, report
from harness.run import run
from recipes import load_recipe
from tests.conftest import make_config


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def trained(folder: Path, config) -> None:
    """Trains a run and evaluates it again, into a file beside all runs."""
    assert run(config, load_recipe(config)) == 0
    rows = folder.parents[1] / f"{folder.name}.csv"
    assert evaluate.main([str(folder), "--episodes", "1", "--device", "cpu", "--csv", str(rows)]) == 0


@pytest.fixture(scope="module")
def reported(tmp_path_factory) -> Path:
    """A folder with runs, the rows of their evaluations afterwards, and one report about all runs."""
    out = tmp_path_factory.mktemp("reported")
    folder = out / "runs"
    folder.mkdir()
    common = ("auxiliary=none", "video=false")
    for game in ("tennis", "adventure"):
        trained(folder / game, make_config(folder / game, f"game={game}", *common))
    length = ("agent_steps=80", "loop.learning_starts=60", "evaluation.horizon=20", "environment.action_repeat=5")
    trained(folder / "Dot", make_config(folder / "Dot", "env=tests.own_environments:Dot", *common, *length))
    assert report.main([str(folder), "--out", str(out / "report"), "--repeats", "10"]) == 0
    return out


def rows_of(folder: Path, suite: str, task: str) -> tuple[list[dict[str, str]], list[dict[str, str]], dict[str, str]]:
    """Episodes of the training, those of the evaluation after it, and the task's row in its suite's table."""
    report = folder / "report"
    assert (report / "figures" / f"{suite}_{task}_curve.png").is_file()
    (provenance,) = (row for row in read(report / "tables" / "provenance.csv") if row["task"] == task)
    assert provenance["suite"] == suite
    (row,) = (row for row in read(report / "tables" / f"{suite}.csv") if task in (row.get("game"), row.get("task")))
    assert [name for name, value in row.items() if value and "published" in name] == []
    return read(folder / "runs" / task / "evaluations.csv"), read(folder / f"{task}.csv"), row


def last_mean(episodes: list[dict[str, str]]) -> float:
    end = max(int(episode["env_steps"]) for episode in episodes)
    scores = [float(episode["score"]) for episode in episodes if int(episode["env_steps"]) == end]
    return sum(scores) / len(scores)


@pytest.mark.parametrize(("game", "has_scale"), [("tennis", True), ("adventure", False)])
def test_a_game_outside_the_26(reported, game, has_scale):
    episodes, again, row = rows_of(reported, "atari", game)
    assert float(row["ours: Baseline, preset tiny"]) == pytest.approx(last_mean(episodes))
    assert all(("human_normalised" in episode) == has_scale for episode in (*again, *episodes))
    if has_scale:
        normalised = [float(episode["human_normalised"]) for episode in episodes]
        assert normalised == pytest.approx([(float(e["score"]) + 23.8) / (-8.3 + 23.8) for e in episodes])


def test_an_environment_of_a_users_own(reported):
    episodes, again, row = rows_of(reported, "gymnasium", "Dot")
    ours = "ours: Baseline, preset tiny, agent steps 80, action repeat 5"
    assert float(row[ours]) == pytest.approx(last_mean(episodes))
    assert not any("human_normalised" in episode for episode in (*again, *episodes))
