"""mlr compare: agents of one task side by side."""

import imageio.v2 as imageio

from commands import compare, evaluate
from harness.logs import CsvLog
from recipes import load_config
from tests.conftest import ROOT, make_config
from tests.recipes import ATARI


def test_agents_play_the_episodes_of_an_evaluation_and_are_shown_side_by_side(finished_run, tmp_path, capsys):
    rows = tmp_path / "rows.csv"
    assert evaluate.main([str(finished_run), "--episodes", "2", "--csv", str(rows), "--device", "cpu"]) == 0
    (score,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("score")]
    arguments = [str(finished_run), "random", "--episodes", "2", "--out", str(tmp_path)]
    assert compare.main(arguments) == 0
    agent, by_chance, video, picture = capsys.readouterr().out.splitlines()
    assert agent.startswith("MLR, 120 steps: ") and agent.split()[3] == score.split()[1]
    assert by_chance.startswith("random actions: ")
    player = compare.make_random(ATARI.suite, load_config(finished_run), rows, 3, "cpu")
    drawn = [int(action) for action in player(range(300), range(300))]
    assert set(drawn) == set(range(max(drawn) + 1)) and len(set(drawn)) in (6, 18)  # Pong's buttons, or all
    with imageio.get_reader(video) as frames:
        size = frames.get_meta_data()["size"]
        assert frames.count_frames() > int(CsvLog(rows).read()[0]["episode_agent_steps"])
    assert size[0] > 2 * 200 and imageio.imread(picture).shape[1] > 1000  # Pong is 160 x 210


def test_runs_of_one_method_have_names_of_their_own():
    """A run named twice is the same agent."""
    first, second = make_config("a"), make_config("b", "seed=2")
    named = compare.labels(["a", "b", "c", "a"], [first, second, make_config("c", "auxiliary=none"), first])
    assert named == ["MLR, seed 1", "MLR, seed 2", "Baseline", "MLR, seed 1"]
    other = make_config("d", "mlr.mask.ratio=0.3", "experiment=sparse")
    assert compare.labels(["a", "d"], [first, other])[1] == "MLR, seed 1, experiment sparse"


def test_runs_of_several_tasks_are_refused(finished_run, capsys):
    (swingup,) = ROOT.glob("results/agents/cartpole_swingup_baseline_*")
    assert compare.main([str(finished_run), str(swingup)]) == 2
    assert "compare runs of one task" in capsys.readouterr().err
