"""`mlr verify` on real runs of both suites, and on the table of an evaluation."""

import os
import shutil
import subprocess
import sys

import pytest

from commands import evaluate, verify
from harness import verification
from harness.logs import CsvLog
from harness.report.scores import read_runs
from harness.run import run
from harness.run_folder import RunFolder
from tests.conftest import ROOT, make_config
from tests.recipes import ATARI

WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; from commands import verify; sys.exit(verify.main())"


def test_runs_are_played_again_without_torch_and_opengl(finished_run, finished_dmcontrol_run):
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(finished_run), str(finished_dmcontrol_run)],
        cwd=ROOT, env=os.environ | {"MUJOCO_GL": "off"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert len(lines) == 2 and all("as in the table, to the last digit; made with" in line for line in lines)
    assert "ale-py " in lines[0] and "mujoco " in lines[1]


def test_suites_with_pictures_have_processes_of_their_own(finished_dmcontrol_run, finished_run, monkeypatch, capsys):
    """Playing DMControl without pictures leaves MUJOCO_GL=off in a process for its life."""
    backends = []

    def playing(table, config, suite, pool):
        found = verification.verify(table, config, suite, pool)
        backends.append(pool.submit(os.getenv, "MUJOCO_GL").result())
        return found

    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(verify, "verify", playing)
    assert verify.check([finished_dmcontrol_run, finished_run], processes=1) == 0
    assert backends == ["off", None]


def test_the_table_of_an_evaluation_has_its_episodes_beside_it(finished_run, tmp_path, capsys):
    table = tmp_path / "scores.csv"
    for episodes in ("3", "2"):  # the second takes the place of the first
        assert evaluate.main([str(finished_run), "--episodes", episodes, "--seed", "7", "--csv", str(table)]) == 0
    assert len(read_runs([tmp_path])) == 1
    capsys.readouterr()
    assert verify.main([str(table), "--processes", "1"]) == 0
    assert "2 of 2 episodes played again, as in the table" in capsys.readouterr().out
    rows = CsvLog(table).read()
    rows[1]["score"] = "1.0"
    table.unlink()
    CsvLog(table).append(*rows)
    assert verify.main([str(table), "--processes", "1"]) == 70
    assert "agent step 120, episode 1: score is 1.0 in the table" in capsys.readouterr().out


@pytest.mark.parametrize("what, message", [("missing", "holds neither"), ("older", "nothing was checked")])
def test_a_run_without_episodes_is_named(finished_run, tmp_path, capsys, what, message):
    folder = tmp_path / "run"
    if what == "older":
        shutil.copytree(finished_run, folder, ignore=shutil.ignore_patterns("episodes.csv", "checkpoints"))
    assert verify.main([str(folder)]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ") and message in err and err.count("\n") == 1
    assert out.endswith("no episodes stored\n") == (what == "older")


def test_an_evaluation_that_is_repeated_takes_the_place_of_its_episodes(tmp_path):
    settings = ("agent_steps=40", "eval_every=20", "checkpoint_every=40", "evaluation.horizon=10", "auxiliary=none")
    folder = RunFolder(tmp_path / "run")
    assert run(make_config(folder.path, *settings, "video=false"), ATARI) == 0
    episodes, rows = folder.episodes.read_bytes(), folder.evaluations.read_text().splitlines(keepends=True)
    folder.evaluations.write_text("".join(rows[:-1]) + rows[-1][:40])  # killed while it wrote the last row
    assert run(make_config(folder.path, *settings, "video=false"), ATARI) == 0
    assert folder.episodes.read_bytes() == episodes
    assert folder.evaluations.read_text().splitlines(keepends=True) == rows


def test_a_sample_of_shipped_episodes_is_as_in_their_tables(tmp_path, capsys):
    """One episode of each run; `scripts/verify.py results/runs` plays all."""
    shipped = [RunFolder(file.parent) for file in (ROOT / "results" / "runs").rglob("episodes.csv")]
    for number, folder in enumerate(shipped):
        copy = RunFolder(tmp_path / str(number))
        copy.path.mkdir()
        for file in (folder.config, folder.manifest, folder.evaluations, folder.episodes):
            shutil.copy(file, copy.path)
        played = [row["agent_steps"] for row in CsvLog(folder.episodes).read()]
        for file in (copy.evaluations, copy.episodes):
            rows = CsvLog(file).read()
            CsvLog(file).keep(row for row in rows if (row["agent_steps"], row["episode"]) == (played[0], "0"))
    assert shipped and verify.main([str(tmp_path), "--processes", "1"]) == 0
    assert capsys.readouterr().out.count("1 of 1 episodes played again, as in the table") == len(shipped)
