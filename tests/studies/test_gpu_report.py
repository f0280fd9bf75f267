"""The command that measures a new GPU, rehearsed on a CPU."""

import os
import subprocess
import sys

from harness.exit_codes import DONE, FAILED, REFUSED
from studies.gpu_report import __main__ as report
from studies.gpu_report.lines import FILE, newest_lines, read_lines, write_line
from studies.gpu_report.summary import write_summary
from tests.conftest import ROOT

MISSING = ("imageio", "imageio_ffmpeg", "kornia")


def stage(name, code, needs=0.0, limit=60.0):
    return report.Stage(name, needs, limit, [sys.executable, "-c", code], report.nothing)


def endings(lines):
    return [(line["stage"], line["ended"]) for line in read_lines(lines) if "ended" in line]


def test_a_budget_is_kept_and_the_next_visit_does_what_is_missing(tmp_path):
    lines, mark = tmp_path / "lines.jsonl", tmp_path / "mark"
    hangs = f"open({str(mark)!r}, 'a').write('x'); import time; time.sleep(3600)"
    stages = [stage("good", "print(1)"), stage("bad", "1 / 0"), stage("long", hangs, limit=3.0)]
    stages.append(stage("large", "", needs=1e6))
    assert report.visit(stages, lines, 100, tmp_path) == FAILED
    good, bad, long, large = endings(lines)
    assert (
        good == ("good", "done")
        and "see bad.log" in bad[1]
        and "ZeroDivisionError" in (tmp_path / "bad.log").read_text()
    )
    assert long[1] == "ended after its limit of 3 s" and mark.read_text() == "x"
    assert large[1].startswith("left out: it needs 1e+06 s, ")
    assert report.visit([stages[0], stage("bad", "")], lines, 100, tmp_path) == DONE
    assert endings(lines)[4:] == [("bad", "done")]  # and nothing for the good one
    assert "| bad | done |" in (tmp_path / "performance.md").read_text()


def test_tests_that_passed_are_not_run_again(tmp_path):
    """The second fails once. At a third visit none is left."""
    code = (
        "from pathlib import Path\n\n\ndef test_good():\n    with open('good', 'a') as file:\n        file.write('x')\n"
    )
    code += "\n\ndef test_bad():\n    was_there = Path('bad').exists()\n    Path('bad').touch()\n    assert was_there\n"
    (tmp_path / "test_two.py").write_text(code)
    lines = tmp_path / "lines.jsonl"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "studies.gpu_report.lines", "-p", "no:cacheprovider"]
    environment = os.environ | {FILE: str(lines), "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    environment.pop("PYTEST_XDIST_WORKER", None)
    codes = [
        subprocess.run([*command, "test_two.py"], cwd=tmp_path, env=environment, capture_output=True).returncode
        for _ in range(3)
    ]
    assert codes == [1, 0, 0] and (tmp_path / "good").read_text() == "x"
    assert [line["outcome"] for line in newest_lines(read_lines(lines), "tests").values()] == ["passed", "passed"]


def test_a_whole_run_without_optional_libraries_and_git_leaves_its_tables(tmp_path, monkeypatch):
    """Refuses every process of the stage what a bare machine may lack."""
    blocked, commands = tmp_path / "blocked", tmp_path / "bin"
    blocked.mkdir(), commands.mkdir()
    for name in MISSING:
        (blocked / f"{name}.py").write_text(f"raise ImportError('no {name} here')\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(blocked), os.environ.get("PYTHONPATH", ""))))
    monkeypatch.setenv("PATH", str(commands))
    out, where = tmp_path / "out", ["--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs")]
    arguments = ["--device", "cpu", "--preset", "tiny", "--stages", "run_atari", "--budget", "3600", *where]
    assert report.main(arguments) == DONE
    run = out / "results" / "runs" / "gpu" / "boxing" / "baseline_seed_1"
    assert {file.name for file in run.iterdir()} == set(report.KEPT)
    assert (run / "evaluations.csv").read_text() == (tmp_path / "runs" / "run_atari" / "evaluations.csv").read_text()
    assert report.main([*arguments[:3], "quick", *arguments[4:]]) == REFUSED  # lines of another preset


def test_wrong_input_is_refused_in_one_line(tmp_path, capsys):
    assert report.main(["--stages", "moon", "--device", "cpu", "--out", str(tmp_path / "out")]) == REFUSED
    assert "moon" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_the_table_has_times_parts_and_what_went_wrong(tmp_path):
    lines = tmp_path / "lines.jsonl"
    timed = {"update_seconds": 0.0145, "eager_update_seconds": 0.02, "update_cpu_seconds": 1e-4}
    timed |= {"peak_memory_bytes": 2.5e9, "parts": {"rl": 0.004, "rest": 0.001}}
    write_line(lines, "speed_dmcontrol", item="mlr bf16", **timed)
    write_line(lines, "speed_atari", item="mlr bf16", error="OutOfMemoryError: no room")
    write_line(lines, "tests", item="test_a", outcome="passed")
    write_summary(tmp_path, lines)
    page = (tmp_path / "performance.md").read_text()
    assert "| DMControl, mlr bf16 | 14.5 | 20.0 | 0.100 | 2.50 |" in page
    assert "| DMControl, mlr bf16 | 4.00 | 1.00 |" in page
    assert "speed_atari, mlr bf16: OutOfMemoryError: no room" in page and "test_gpu.py: 1 passed" in page
