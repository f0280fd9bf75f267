"""Whole sweeps of tiny runs on this machine, killed at random."""

import json
import os
import random
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from commands import sweep as script
from harness.sweeps.config import read_sweep_config
from recipes import COMMANDS
from tests.harness.sweeps.test_attempt import make_run
from tests.sweeps import attempts, sweep, tiny
from tests.test_configs import difference
from tests.trials.sweep import sweep as trial


def test_runs_killed_at_random_finish_exactly_once_each(tmp_path):
    """Four of the trial's forty."""
    cases = list(trial(4, random.Random(0), tmp_path, tasks="pong"))
    assert [case.problem for case in cases if case.problem] == []
    kinds = Counter(case.what for case in cases)
    assert kinds["run, killed"] >= 1, "no kill: this was no trial"
    assert kinds["run, killed"] + kinds["run, not seen killed"] == 4


def test_a_run_that_fails_is_named_and_the_others_go_on(tmp_path):
    settings = ["suite=atari", "tasks=pong", "auxiliary=none", "seeds=1", "parallel=2"]
    settings += tiny("atari", "device=cpu,cuda:77")
    result = sweep(tmp_path, *settings)
    assert result.returncode == 1
    reason = "exit code 2: error: device=cuda:77"
    assert f"failed   atari/pong/none-device_cuda_77-released-tiny/seed_1: {reason}" in result.stdout
    status = sweep(tmp_path, "status", *settings).stdout.splitlines()
    assert [line.split()[1] for line in status[1:3]] == ["done", "failed"]
    assert reason in status[2]
    assert "1 done, 0 running, 0 waiting, 1 failed" in status[3]
    assert sweep(tmp_path, *settings).returncode == 1, "another sweep tries again"
    assert [sum(event["event"] == "started" for event in events) for events in attempts(tmp_path).values()] == [1, 2]


def test_what_holds_another_configuration_is_refused_before_anything_starts(tmp_path):
    folder = tmp_path / "runs/atari/pong/mlr-released-tiny/seed_1"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("suite: atari\n")
    result = sweep(tmp_path, "table=atari100k", "tasks=boxing,pong", "seeds=1", *tiny("atari"))
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "holds another configuration" in result.stderr
    assert not attempts(tmp_path)


def test_a_finished_sweep_starts_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(script, "connect", lambda config: pytest.fail("it connects"))
    monkeypatch.setattr(script, "sharing", lambda *_: pytest.fail("it starts MPS"))
    run = make_run(tmp_path, "")
    Path(run.run_dir).mkdir(parents=True)
    (Path(run.run_dir) / "evaluations.csv").write_text("agent_steps,score\n8,1\n8,2\n")
    for launcher in ("local", "ray"):
        assert script.run_here([run], read_sweep_config([f"launcher={launcher}"]), Console()) == 0
    assert capsys.readouterr().out == "1 runs: 1 done, 0 running, 0 waiting, 0 failed\n" * 2


@pytest.fixture(autouse=True)
def no_cost(monkeypatch):
    monkeypatch.setattr(script, "predicted_cost", lambda runs: [])


def test_a_study_of_the_ladder_is_listed_with_its_predicted_cost(capsys, monkeypatch):
    monkeypatch.undo()
    settings = ["table=atari100k", "tasks=pong,boxing", "seeds=2", "preset=tiny", "ladder=none,annealing"]
    assert script.main([*settings, "auxiliary=none,mlr", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[16] == "16 runs" and lines[17].startswith("prediction, not measured")
    arms = {line.split(":")[0].strip(): line for line in lines[18:]}
    hours = {arm: float(line.split()[4]) for arm, line in arms.items() if arm != "all"}
    assert set(hours) == {f"atari/{each}-released-tiny" for each in ("none", "mlr", "none-annealing", "mlr-annealing")}
    assert "4 runs of" in arms["atari/none-released-tiny"] and "GPU hours" in arms["all"]


def listed(capsys, *settings: str) -> list[str]:
    assert script.main([*settings, "--dry-run"]) == 0
    return capsys.readouterr().out.splitlines()


TWO = "ball_in_cup_catch,walker_walk"


def test_tables_expand_to_stable_names_and_commands(capsys):
    assert len(listed(capsys, "table=dmcontrol100k", "seeds=1")) == 6 + 1
    lines = listed(capsys, "table=atari100k", "seeds=1", "tasks=alien,pong")
    assert lines[0].startswith("atari/alien/mlr-released-full/seed_1: python ")
    assert lines[0].endswith("commands/train_atari.py game=alien seed=1")
    lines = listed(capsys, "table=dmcontrol500k", "seeds=2", "auxiliary=mlr,none", "fidelity=paper", f"tasks={TWO}")
    assert lines[-1] == "8 runs"
    assert lines[0].endswith("task=ball_in_cup_catch budget=500k fidelity=paper auxiliary=mlr seed=1")
    assert [line.split(":")[0][-1] for line in lines[:-1]] == ["1"] * 4 + ["2"] * 4, "first seeds first"
    assert listed(capsys, "table=dmcontrol100k", "seeds=7,9", "tasks=walker_walk", "preset=tiny")[1].endswith(
        "task=walker_walk preset=tiny seed=9"
    ), "a preset keeps its own length"
    short = listed(capsys, "table=atari100k,dmcontrol100k", "tasks=pong,walker_walk", "seeds=1", "dmcontrol.preset=cpu")
    assert short[0].endswith("game=pong seed=1")
    assert short[1].endswith("task=walker_walk preset=cpu seed=1"), "also where it is that suite's alone"
    both = ["table=atari100k,dmcontrol100k", "tasks=pong,walker_walk"]
    lines = listed(capsys, *both, "seeds=1", "atari.agent_steps=3000,4000")
    assert [("agent_steps" in line) for line in lines[:3]] == [True, True, False]


def test_the_list_of_runs_is_what_the_commands_do(tmp_path, capsys):
    """Against each command composed by itself."""
    settings = ["suite=atari", "tasks=pong", "seeds=2", "preset=cpu"]
    settings += ["mlr.mask.ratio=0.3,0.7", "ablation=base,tau_0.1,ratio_0.3"]
    file = tmp_path / "runs.json"
    lines = listed(capsys, *settings, "--json", str(file))
    content = json.loads(file.read_text())
    runs = content["runs"]
    assert [line.split(": ")[0] for line in lines[:-3]] == [run["name"] for run in runs]
    base = COMMANDS["atari"].resolve(["game=pong", "preset=cpu"])
    for run in runs[:4]:
        config = COMMANDS["atari"].resolve(run["overrides"])
        assert (run["suite"], config.task, config.seed, config.run_dir) == ("atari", "pong", 1, run["run_dir"])
        assert {key: tuple(pair) for key, pair in run["changed"].items()} == difference(base, config)
    arms = {
        "mlr-ratio_0.3-released-cpu": {"mlr.mask.ratio": [0.5, 0.3]},
        "mlr-ratio_0.7-released-cpu": {"mlr.mask.ratio": [0.5, 0.7]},
        "mlr-tau_0.1-ratio_0.3-released-cpu": {"mlr.mask.ratio": [0.5, 0.3], "mlr.tau": [1.0, 0.1]},
        "mlr-tau_0.1-ratio_0.7-released-cpu": {"mlr.mask.ratio": [0.5, 0.7], "mlr.tau": [1.0, 0.1]},
    }
    assert [(run["name"], run["seed"], run["changed"]) for run in runs] == [
        (f"atari/pong/{arm}/seed_{seed}", seed, changed) for seed in (1, 2) for arm, changed in arms.items()
    ]
    assert content["same"] == [
        {
            "name": "atari/pong",
            "overrides": ["+ablation=ratio_0.3", f"mlr.mask.ratio={ratio}"],
            "arm": f"mlr-ratio_{ratio}-released-cpu",
        }
        for ratio in (0.3, 0.7)
    ]
    double = "+ablation=ratio_0.3 mlr.mask.ratio=0.3 is mlr-ratio_0.3-released-cpu again, which runs once"
    assert lines[-3] == f"atari/pong: {double}"
    assert script.main([*settings, "--dry-run", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out) == content


def test_what_a_combination_does_not_read_makes_no_further_run(capsys):
    lines = listed(
        capsys, "suite=atari", "tasks=pong", "seeds=2", "preset=tiny", "auxiliary=none,mlr", "mlr.mask.ratio=0.3,0.7"
    )
    assert [line.split(":")[0] for line in lines[:-2]] == [
        f"atari/pong/{arm}-released-tiny/seed_{seed}"
        for seed in (1, 2)
        for arm in ("none", "mlr-ratio_0.3", "mlr-ratio_0.7")
    ]
    double = "auxiliary=none mlr.mask.ratio=0.7 is none-released-tiny again, which runs once"
    assert lines[-2:] == [f"atari/pong: {double}", "6 runs"]


def test_tasks_outside_the_tables_and_environments_of_ones_own(tmp_path, capsys, monkeypatch):
    lines = listed(capsys, "suite=dmcontrol", "tasks=walker_walk,point_mass_hard,humanoid_CMU_run", "seeds=1")
    assert [line.split("/")[1] for line in lines[:3]] == ["walker_walk", "point_mass_hard", "humanoid_CMU_run"]
    assert [line.split("train_dmcontrol.py ")[1] for line in lines[:3]] == [
        "task=walker_walk seed=1",
        "domain=point_mass task_name=hard seed=1",
        "domain=humanoid_CMU task_name=run seed=1",
    ]
    presets = listed(capsys, "suite=dmcontrol", "tasks=hopper_hop", "seeds=1", "preset=tiny,cpu")
    assert [line.split("/")[2] for line in presets[:2]] == ["mlr-released-tiny", "mlr-released-cpu"]
    (tmp_path / "rooms.py").write_text("def small(**options): ...\n\n\ndef large(**options): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    lines = listed(capsys, "suite=atari", "env=rooms:small,rooms:large", "seeds=1")
    assert [line.split(":")[0] for line in lines[:2]] == [
        f"gymnasium/{name}/mlr-released-full/seed_1" for name in ("small", "large")
    ]
    assert lines[0].endswith("env=rooms:small seed=1")


def test_groups_expand_to_their_arms(capsys):
    group = ["group=cube_depth", "suite=dmcontrol", "tasks=finger_spin", "arms=cube_depth_2"]
    lines = listed(capsys, *group, "seeds=1")
    assert [line.split(":")[0] for line in lines[:2]] == [
        "dmcontrol/finger_spin/mlr-released-full/seed_1",
        "dmcontrol/finger_spin/mlr-cube_depth_2-released-full/seed_1",
    ]


def test_a_queue_that_does_not_answer_is_said(tmp_path, monkeypatch, capsys):
    program = tmp_path / "squeue"
    program.write_text("#!/bin/sh\necho 'slurm_load_jobs error: no contact' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    settings = ["status", "table=atari100k", "tasks=pong", "seeds=1", *tiny("atari")]
    assert script.main(settings) == 0
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "no contact" in captured.err
    assert "0 done, 0 running, 1 waiting" in captured.out
    monkeypatch.setenv("PATH", "/nowhere")
    assert script.main(settings) == 0
    assert not capsys.readouterr().err, "there is none"


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ("seeds=3", "table="),
        ("suite=atari table=atari100k seeds=3", "table="),
        ("suite=atari seeds=3", "give tasks=A,B or env=A,B"),
        ("suite=atari tasks=pong env=a:b seeds=3", "give tasks=A,B or env=A,B"),
        ("table=atari100k env=a:b seeds=3", "of no table"),
        ("suite=atar tasks=pong seeds=3", "did you mean atari"),
        ("suite=atari tasks=pong,pong seeds=3", "different names"),
        ("suite=atari tasks=pogn seeds=3", "did you mean pong"),
        ("suite=dmcontrol tasks=hoper_hop seeds=3", "did you mean hopper_hop?"),
        ("table=atari100k", "seeds"),
        ("table=atari10k seeds=3", "did you mean atari100k"),
        ("table=atari100k seeds=0", "seeds=0"),
        ("table=atari100k seeds=x", "seeds=x"),
        ("table=atari100k seeds=1 tasks=pang", "pong"),
        ("table=atari100k seeds=1 auxiliary=sp", "no auxiliary named 'sp'"),
        ("table=atari100k seeds=1 seed=3", "seeds=..."),
        ("table=atari100k seeds=1 arms=x", "add group="),
        ("table=atari100k seeds=1 group=tau ablation=tau_1", "exclude each other"),
        ("table=atari100k seeds=1 tasks=pong ablation=tau_2", "no ablation named 'tau_2'"),
        ("table=dmcontrol100k,dmcontrol500k seeds=1", "leave them out"),
        ("table=dmcontrol100k seeds=1 preset=full,tiny", "one preset"),
        ("table=atari100k seeds=1 launcher=condor", "launcher=condor"),
        ("table=atari100k seeds=1 parallel=-1", "parallel=-1"),
        ("table=atari100k seeds=1 parallel=many", "parallel"),
        ("table=atari100k seeds=1 ray.cpus=-1", "ray.cpus=-1"),
        ("table=atari100k seeds=1 paralel=2", "parallel"),
        ("table=atari100k seeds=1 slurm.minuts=2", "slurm.minutes"),
        ("table=atari100k seeds=1 slurm.minutes=1 slurm.warning_seconds=60", "warning_seconds"),
        ("table=atari100k seeds=1 mlr.mask.ratoi=0.2", "mlr.mask.ratio"),
        ("table=atari100k tasks=pong seeds=2 run_dir=here", "run_dir=here"),
        ("group=tua suite=atari tasks=pong seeds=1", "did you mean tau"),
        ("group=mask_ratio suite=atari tasks=pong seeds=1 arms=ratio_0.35", "no arm named 'ratio_0.35'"),
        ("group=mask_ratio suite=atari tasks=pong seeds=1 mlr.mask.ratio=0.4", "no arm changes anything"),
        ("suite=atari tasks=pong seeds=1 --json runs.json", "add it"),
        ("suite=atari tasks=pong seeds=1 --dry-run --json no/runs.json", "cannot be written"),
        ("table", "key=value"),
        ("table=atari100k seeds=1 atari.seed=3", "atari.seed is decided by seeds=..."),
        ("table=atari100k seeds=1 ++game=pong", "++game is decided by tasks=..."),
        ("table=dmcontrol100k seeds=1 dmcontrol.task=walker_walk", "tasks=..."),
        ("table=atari100k seeds=1 atari.seeds=2", "written seeds=2"),
        ("table=dmcontrol100k seeds=1 budget=500k", "write another table="),
        ("table=dmcontrol100k seeds=1 dmcontrol.budget=1k", "write another table="),
        ("table=atari100k seeds=1 preset=cpu preset=tiny", "preset is given twice"),
        ("table=atari100k seeds=1 preset=cpu atari.preset=tiny", "preset is given twice"),
        ("table=atari100k seeds=1 parallel=1 parallel=2", "parallel is given twice"),
        ("table=atari100k seeds=1 seeds=2", "seeds is given twice"),
        ("table=atari100k seeds=1 dmcontrol.env_steps=300", "dmcontrol.env_steps=300 is of no run here"),
        ("suite=atari tasks=pong seeds=1 dmcontrol.env_steps=300", "no run here"),
        (f"table=atari100k seeds={'9' * 5000}", "at most 9 digits"),
        ("table=atari100k seeds=10001", "10,000"),
        (f"table=atari100k seeds={','.join(map(str, range(10001)))}", "at most 10,000"),
        ("table=atari100k seeds=1,01", "different"),
        ("table=atari100k seeds=1 slurm.memory_gb=inf", "slurm.memory_gb=inf"),
        ("table=atari100k seeds=1 zzzzzz=1", "--help"),
        ("table=atari100k seeds=1 slurm.zzzzzz=1", "--help"),
        ("suite=mwm tasks=reach seeds=1 world_model=pixels ablation=base,stem_patch", "which world_model=pixels does"),
    ],
)
def test_wrong_input_is_one_line_and_nothing_is_written(settings, complaint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(script, "run_here", lambda *_: pytest.fail("it ran"))
    assert script.main(settings.split()) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert complaint in captured.err
    assert "--cfg" not in captured.err
    assert len(captured.err) < 300
    assert not captured.out
    assert not list(tmp_path.iterdir())
