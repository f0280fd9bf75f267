"""Tasks outside the published tables: training, evaluation and report of a tiny run."""

import csv
from pathlib import Path

import pytest

from commands import evaluate, report
from harness.run import run
from recipes import load_recipe
from tests.conftest import make_config, make_dmcontrol_config


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def evaluated_and_reported(folder: Path, suite: str, task: str) -> tuple[list[dict[str, str]], dict[str, str]]:
    """Rows of an evaluation after training, and the task's row in its suite's table."""
    rows, out = folder / "rows.csv", folder.parent / "report"
    assert evaluate.main([str(folder), "--episodes", "1", "--device", "cpu", "--csv", str(rows)]) == 0
    rows.rename(folder.parent / "rows.csv")
    assert report.main([str(folder), "--out", str(out), "--repeats", "10"]) == 0
    assert (out / "figures" / f"{suite}_{task}_curve.png").is_file()
    (provenance,) = read(out / "tables" / "provenance.csv")
    assert (provenance["suite"], provenance["task"]) == (suite, task)
    (row,) = (row for row in read(out / "tables" / f"{suite}.csv") if task in (row.get("game"), row.get("task")))
    assert [name for name, value in row.items() if value and "published" in name] == []
    return read(folder.parent / "rows.csv"), row


@pytest.mark.parametrize(("game", "has_scale"), [("tennis", True), ("adventure", False)])
def test_a_game_outside_the_26(tmp_path, game, has_scale):
    folder = tmp_path / "run"
    config = make_config(folder, f"game={game}", "auxiliary=none", "video=false")
    assert run(config, load_recipe(config)) == 0
    episodes = read(folder / "evaluations.csv")
    rows, row = evaluated_and_reported(folder, "atari", game)
    scores = [float(episode["score"]) for episode in episodes]
    assert float(row["ours: Baseline, preset tiny"]) == pytest.approx(sum(scores) / len(scores))
    assert all(("human_normalised" in episode) == has_scale for episode in (*rows, *episodes))
    if has_scale:
        normalised = [float(episode["human_normalised"]) for episode in episodes]
        assert normalised == pytest.approx([(score + 23.8) / (-8.3 + 23.8) for score in scores])


def test_an_environment_of_a_users_own(tmp_path):
    folder = tmp_path / "run"
    length = ("agent_steps=80", "loop.learning_starts=60", "evaluation.horizon=20", "environment.action_repeat=5")
    config = make_config(folder, "env=tests.own_environments:Dot", "auxiliary=none", "video=false", *length)
    assert run(config, load_recipe(config)) == 0
    episodes = read(folder / "evaluations.csv")
    rows, row = evaluated_and_reported(folder, "gymnasium", "Dot")
    scores = [float(episode["score"]) for episode in episodes]
    ours = "ours: Baseline, preset tiny, agent steps 80, action repeat 5"
    assert float(row[ours]) == pytest.approx(sum(scores) / len(scores))
    assert not any("human_normalised" in episode for episode in (*rows, *episodes))


@pytest.mark.gl
def test_a_dmcontrol_task_outside_the_six(tmp_path):
    folder = tmp_path / "run"
    config = make_dmcontrol_config(folder, "domain=hopper", "task_name=hop", "auxiliary=none", "video=false")
    assert run(config, load_recipe(config)) == 0
    episodes = read(folder / "evaluations.csv")
    end = max(int(episode["env_steps"]) for episode in episodes)
    _, row = evaluated_and_reported(folder, "dmcontrol", "hopper_hop")
    scores = [float(episode["score"]) for episode in episodes if int(episode["env_steps"]) == end]
    assert row["environment steps"] == f"{end:,}"
    assert float(row["ours: Baseline, preset tiny"]) == pytest.approx(sum(scores) / len(scores))
