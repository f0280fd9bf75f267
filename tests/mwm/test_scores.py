import csv
from statistics import mean

import pytest

from harness.config import ConfigError
from harness.report.published import read_table
from harness.report.report import write_report
from harness.report.results import Group, Run, collect
from harness.report.scores import read_runs
from harness.report.tables import suite_table
from mwm.scores import SCORES, curves
from mwm.tasks import METAWORLD_TASKS


@pytest.mark.parametrize(("method", "printed"), [("mwm", 0.817), ("dreamerv2", 0.679)])
def test_the_headline_is_the_mean_over_tasks_of_the_last_five_evaluations(method, printed):
    results = [row[method] for row in SCORES.means[""].values()]
    assert len(results) == 50 and mean(results) == pytest.approx(printed, abs=5e-4)


def test_curves_are_the_rows_of_the_file():
    rows = [row for row in read_table("mwm_metaworld") if row["task"] == "metaworld_window_close"]
    rows = {method: [row for row in rows if row["method"] == method] for method in ("dreamerv2", "mwm")}
    shown = curves("window_close")
    assert list(shown) == ["DreamerV2, published", "MWM, published"]
    for curve, own in zip(shown.values(), rows.values(), strict=True):
        assert curve.env_steps == tuple(int(row["env_frames"]) for row in own) == tuple(range(10_000, 500_000, 20_000))
        assert curve.means == tuple(float(row["success_mean"]) for row in own)
        assert curve.deviations == tuple(float(row["success_std"]) for row in own)
    assert curves("unheard_of") == {} and set(SCORES.tasks) == set(METAWORLD_TASKS)


def write(path, successes):
    """A score file whose evaluations, 100 environment steps apart, have two episodes with these successes."""
    names = "suite,task,method,preset,fidelity,seed,config_hash,version,hardware,total_agent_steps"
    lines = [f"{names},agent_steps,env_steps,frames,episode,score,success"]
    for number, pair in enumerate(successes, start=1):
        for episode, success in enumerate(pair):
            steps = f"{50 * number},{100 * number},{50 * number}"
            run = f"metaworld,reach,mwm,full,released,1,abc,v,cpu,{50 * len(successes)}"
            lines.append(f"{run},{steps},{episode},{900 + number},{success}")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_result_is_the_success_of_the_last_five_evaluations(tmp_path):
    file = write(tmp_path / "run.csv", [(0, 0), (0, 0), (0, 1), (0, 1), (1, 1), (1, 1), (0, 1)])
    (run,) = read_runs([file], {SCORES.name: SCORES})
    assert isinstance(run, Run) and run.group == Group("metaworld", "mwm", "full", "released")
    assert run.group.label == "MWM"
    assert run.evaluations[300].scores == (0.0, 1.0) and run.final == pytest.approx((0.5 + 0.5 + 1 + 1 + 0.5) / 5)
    (results,) = collect([run], {SCORES.name: SCORES})
    assert results.raw() == {"reach": [run.final]}
    table = suite_table(SCORES, [run], repeats=50)
    (row,) = [dict(zip(table.header, row, strict=True)) for row in table.rows if "reach" in row]
    assert row["ours: MWM"] == "0.70" and row["MWM, published"] == f"{SCORES.means['']['reach']['mwm']:.2f}"
    assert read_runs([file])[0].final == 907.0


def test_a_score_file_without_success_is_refused(tmp_path):
    file = write(tmp_path / "run.csv", [(0, 1)])
    file.write_text(file.read_text().replace("score,success", "score,other"))
    with pytest.raises(ConfigError, match="run.csv is no score file of Meta-world: it lacks the column success"):
        read_runs([file], {SCORES.name: SCORES})


def test_the_published_curves_lie_behind_those_of_runs(tmp_path):
    file = write(tmp_path / "run.csv", [(0, 0)] * 200 + [(0, 1)] * 200)  # up to 40,000 environment steps
    suites = {SCORES.name: SCORES}
    paths, _ = write_report(read_runs([file], suites), suites, tmp_path / "out", repeats=50)
    (table,) = [path for path in paths if path.name == "metaworld_reach_curve.csv"]
    with table.open(newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if "published" in row["group"]]
    shown = [(row["group"], int(row["environment steps"]), float(row["score"])) for row in rows]
    assert shown == [
        (label, steps, score)
        for label, curve in curves("reach").items()
        for steps, score in zip(curve.env_steps[:2], curve.means[:2], strict=True)
    ]
    assert "Grey curves" in (tmp_path / "out" / "index.html").read_text()
