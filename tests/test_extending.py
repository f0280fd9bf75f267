"""docs/extending.md, executed in a copy of the project."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()
PACKAGES = ("atari", "auxiliaries", "commands", "configs", "dmcontrol", "harness", "mlr", "mwm", "recipes")

# One process, so that torch is imported once.
DRIVER = """
import json, sys
from pathlib import Path
from harness.logs import CsvLog
from harness.run_folder import RunFolder, read_manifest
from recipes import train
from commands import evaluate, report
import harness.run

harness.run.draw_run = lambda *_: "not drawn"
SHORT = {
    "atari": ["agent_steps=82", "evaluation.horizon=20"],
    "dmcontrol": ["env_steps=336", "eval_every_env_steps=0"],
}
found = {}
for number, (script, *settings) in enumerate(json.loads(sys.argv[1])):
    name = script.removeprefix("train_")
    folder = f"runs/{number}"
    settings += [f"run_dir={folder}", "device=cpu", "threads=1", "video=false"]
    settings += SHORT[name]
    codes = [train(name, argv=settings), evaluate.main([folder, "--episodes", "1"])]
    found[folder] = {
        "codes": codes,
        "metrics": list(CsvLog(RunFolder(folder).metrics).read()[-1]),
        "evaluation": list(CsvLog(RunFolder(folder).evaluations).read()[-1]),
        "task": read_manifest(folder)["task"],
    }
found["report"] = report.main(["runs", "--out", "report", "--repeats", "10"])
Path("found.json").write_text(json.dumps(found))
"""


def blocks(language: str) -> dict[str, str]:
    """Files of the page by their names, which are in the first line."""
    found = re.findall(rf"```{language}\n# (\S+\.(?:py|yaml))\n(.*?)```", PAGE, flags=re.S)
    return dict(found)


def commands() -> list[list[str]]:
    return [line.split()[1:] for line in re.findall(r"^python scripts/train_\S+ .*$", PAGE, flags=re.M)]


@pytest.fixture(scope="module")
def executed(tmp_path_factory) -> tuple[Path, dict]:
    """The copy with the page's files, and what its commands left."""
    copy = tmp_path_factory.mktemp("project")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "results" / "published", copy / "results" / "published")
    shutil.copy(ROOT / "pyproject.toml", copy)
    registry = copy / "auxiliaries" / "__init__.py"
    for name, text in (blocks("python") | blocks("yaml")).items():
        path = copy / name
        if path == registry:
            path.write_text(path.read_text().replace("AUXILIARIES = {\n", f"AUXILIARIES = {{\n{text}"))
        else:
            assert not path.exists()
            path.write_text(text)
    listed = json.dumps([[Path(script).stem, *settings] for script, *settings in commands()])
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, listed], cwd=copy, capture_output=True, text=True, env=environment(copy)
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return copy, json.loads((copy / "found.json").read_text())


def environment(copy: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(copy)}


@pytest.mark.gl
def test_every_command_trains_evaluates_and_is_reported(executed):
    copy, found = executed
    assert len(commands()) == 5
    assert found.pop("report") == 0
    assert all(run["codes"] == [0, 0] for run in found.values())
    page = (copy / "report" / "index.html").read_text()
    assert all(run["task"] in page for run in found.values())


@pytest.mark.gl
def test_the_auxiliary_is_logged_under_its_own_metrics(executed):
    _, found = executed
    for run in list(found.values())[:2]:
        assert {"train/aux/loss", "train/aux/error"} <= set(run["metrics"])


@pytest.mark.gl
def test_a_task_without_references_has_no_normalised_column(executed):
    _, found = executed
    hopper = next(run for run in found.values() if isinstance(run, dict) and run["task"] == "hopper_hop")
    assert "human_normalised" not in hopper["evaluation"]


@pytest.mark.gl
def test_the_other_auxiliaries_do_not_notice_a_new_one(executed):
    copy, _ = executed
    code = "from recipes import COMMANDS; print(COMMANDS['atari'].resolve(['game=pong', 'auxiliary=none']).seed)"
    done = subprocess.run([sys.executable, "-c", code], cwd=copy, capture_output=True, text=True, env=environment(copy))
    assert done.stdout == "1\n"
