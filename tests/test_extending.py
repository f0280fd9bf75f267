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
PACKAGES = ("atari", "auxiliaries", "commands", "configs", "dmcontrol", "harness", "mlr", "mwm", "recipes", "studies")


def blocks(language: str) -> dict[str, str]:
    """Files of the page by their names, which are in the first line."""
    found = re.findall(rf"```{language}\n# (\S+\.(?:py|yaml))\n(.*?)```", PAGE, flags=re.S)
    return dict(found)


def commands() -> list[list[str]]:
    return [line.split()[1:] for line in re.findall(r"^python .*$", PAGE, flags=re.M)]


@pytest.fixture(scope="module")
def executed(tmp_path_factory) -> tuple[Path, list[dict]]:
    """The copy with the page's files, and what its commands gave."""
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
    done = subprocess.run(
        [sys.executable, "-m", "tests.extending", json.dumps(commands())],
        cwd=copy, capture_output=True, text=True, env=environment(copy),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return copy, json.loads((copy / "found.json").read_text())


def environment(copy: Path) -> dict[str, str]:
    """Packages of the copy come first; the tests are the project's."""
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(copy), str(ROOT)])}


@pytest.mark.gl
def test_every_command_of_the_page_does_its_work(executed):
    copy, found = executed
    assert [each["name"] for each in found] == [Path(script).stem for script, *_ in commands()]
    assert {each["name"] for each in found} == {"train_atari", "train_dmcontrol", "sweep", "evaluate", "report"}
    assert all(each["code"] == 0 for each in found)
    page = (copy / "report" / "index.html").read_text()
    assert all(run["task"] in page for run in trained(found))


@pytest.mark.gl
def test_a_run_that_was_stopped_ends_as_one_that_was_not(executed):
    _, found = executed
    runs = trained(found)
    assert [run["task"] for run in runs] == ["pong", "cartpole_swingup", "tennis", "hopper_hop", "Catch"]
    assert all(run["stopped"] and run["equal"] for run in runs)


@pytest.mark.gl
def test_the_auxiliary_is_logged_under_its_own_metrics(executed):
    _, found = executed
    for run in trained(found)[:2]:
        assert {"train/aux/loss", "train/aux/error"} <= set(run["metrics"])


@pytest.mark.gl
def test_a_task_without_references_has_no_normalised_column(executed):
    _, found = executed
    (hopper,) = (run for run in trained(found) if run["task"] == "hopper_hop")
    assert "human_normalised" not in hopper["evaluation"]


def trained(found: list[dict]) -> list[dict]:
    return [each for each in found if "task" in each]


@pytest.mark.gl
def test_the_other_auxiliaries_do_not_notice_a_new_one(executed):
    copy, _ = executed
    code = "from recipes import COMMANDS; print(COMMANDS['atari'].resolve(['game=pong', 'auxiliary=none']).seed)"
    done = subprocess.run([sys.executable, "-c", code], cwd=copy, capture_output=True, text=True, env=environment(copy))
    assert done.stdout == "1\n"
