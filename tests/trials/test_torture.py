"""A few cases of each trial; the long ones are run by hand, see docs/reliability.md."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT, missing_opengl


@pytest.mark.gl
def test_runs_that_are_killed_starved_and_misled_come_out_whole(tmp_path):
    """In a process of its own, because runs are forked from it and OpenGL does not survive a fork."""
    assert not missing_opengl()
    command = [sys.executable, "-m", "tests.trials.torture", "--short", "--json", str(tmp_path / "rows.json")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    rows = {row["trial"]: row for row in json.loads((tmp_path / "rows.json").read_text())}
    assert [problem for row in rows.values() for problem in row["problems"]] == []
    assert result.returncode == 0, result.stderr
    assert {name for name, row in rows.items() if row["cases"]} == {
        "kill", "save", "signals", "damage", "config", "hostile", "disk", "evaluation", "finite",
        "altered",
    }  # fmt: skip


def test_an_unknown_trial_is_one_line(capsys):
    from tests.trials import torture

    assert torture.main(["kil"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
