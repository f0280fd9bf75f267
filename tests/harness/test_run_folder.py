import json
import os
import shutil
import subprocess
import sys

import pytest

from harness.config import ConfigError, as_dict
from harness.report.scores import score_columns
from harness.run_folder import RunFolder, check_run, config_hash, read_config, read_manifest, record_start
from tests.conftest import ROOT, make_config, make_dmcontrol_config


def open_run(config, manifest=None) -> RunFolder:
    folder = check_run(config)
    record_start(config, manifest or {})
    return folder


def test_checking_writes_nothing(tmp_path):
    check_run(make_config(tmp_path / "run"))
    assert not list(tmp_path.iterdir())


def test_layout_and_manifest(tmp_path):
    config = make_config(tmp_path / "run", "seed=7")
    folder = open_run(config, {"game": "pong"})
    assert read_config(folder.path)["seed"] == 7
    open_run(config, {"game": "pong"})
    manifest = json.loads(folder.manifest.read_text())
    assert manifest["config_hash"] == config_hash(config) == config_hash(read_config(folder.path))
    assert len(manifest["starts"]) == 2
    assert {"python", "torch", "versions", "git_commit", "cpu", "gpu", "torch_threads"} <= manifest["starts"][0].keys()


def test_another_configuration_is_refused_and_nothing_written(tmp_path):
    folder = open_run(make_config(tmp_path / "run"))
    before = {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")}
    with pytest.raises(ConfigError, match="mlr.mask.ratio is 0.5 there and 0.25 here.*add experiment=NAME"):
        open_run(make_config(tmp_path / "run", "mlr.mask.ratio=0.25"))
    assert before == {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")}


@pytest.mark.parametrize("make, settings", [
    (make_config, ("mlr.mask.ratio=0.25", "mlr.seq_len=6", "mlr.decoder.depth=1")),
    (make_dmcontrol_config, ("mlr.tau=0.5", "aux_optimizer.batch_size=3", "augmentation.pad=2")),
])  # fmt: skip
def test_sections_that_nothing_reads_do_not_set_a_run_apart(tmp_path, make, settings):
    plain, other = (make(tmp_path / "run", "auxiliary=none", *further) for further in ((), settings))
    folder = open_run(plain)
    written = read_config(folder.path)
    open_run(other)
    assert read_config(folder.path) == written and not {"mlr", "aux_optimizer"} & written.keys()
    columns = [score_columns(as_dict(config), read_manifest(folder.path)) for config in (plain, other)]
    assert columns[0] == columns[1] and columns[0]["settings_hash"]


def test_keys_that_do_not_change_learning_may_change(tmp_path):
    first = make_config(tmp_path / "run")
    other = make_config(
        tmp_path / "run", "log_every=7", "checkpoint_every=33", "threads=2", "video=false", "evaluation.workers=2"
    )
    assert config_hash(first) == config_hash(other)
    assert config_hash(first) != config_hash(make_config(tmp_path / "run", "evaluation.episodes=3"))
    open_run(first)
    open_run(other)


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty and no run folder"):
        open_run(make_config(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_reading_what_is_no_run(tmp_path):
    with pytest.raises(ConfigError, match="no run folder"):
        read_config(tmp_path)
    with pytest.raises(ConfigError, match="no saved weights"):
        RunFolder(tmp_path).saved_weights()


def test_a_kill_while_the_folder_was_made_leaves_it_usable(tmp_path):
    (tmp_path / "config.part").write_text("half")
    folder = open_run(make_config(tmp_path))
    assert read_config(folder.path)["game"] == "pong"


@pytest.mark.parametrize("content", ["", "- 1", "{", "\x00", "[" * 100_000])
def test_damaged_files_are_one_line(tmp_path, content):
    folder = open_run(make_config(tmp_path / "run"))
    folder.manifest.write_text(content)
    with pytest.raises(ConfigError, match="manifest.json is damaged"):
        read_manifest(folder.path)
    folder.config.write_text(content)
    with pytest.raises(ConfigError, match="config.yaml is damaged"):
        check_run(make_config(tmp_path / "run"))


def test_a_path_that_cannot_be_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ConfigError, match="cannot be"):
            open_run(make_config(path))


def test_two_cannot_train_in_one_folder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with folder.locked():
        with pytest.raises(ConfigError, match="another process is training"), folder.locked():
            pytest.fail("two have the lock")
    with folder.locked():
        pass


def test_a_name_too_long_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="cannot be used"):
        check_run(make_config(tmp_path / ("a" * 300)))
    with pytest.raises(ConfigError, match="no run folder"):
        read_config(tmp_path / ("a" * 300))


def test_no_git_is_no_obstacle(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    open_run(make_config(tmp_path / "run"))
    assert read_manifest(tmp_path / "run")["starts"][0]["git_commit"] is None


def test_the_commit_of_a_repository_around_this_one_is_not_recorded(tmp_path):
    inside = tmp_path / "unpacked"
    shutil.copytree(ROOT / "harness", inside / "harness", ignore=shutil.ignore_patterns("__pycache__"))
    author = ("-c", "user.name=a", "-c", "user.email=a@b")
    program = "from harness.run_folder import _git; print(_git('rev-parse', 'HEAD'))"

    def recorded(repository, **variables):
        subprocess.run(["git", "init", "-q", repository], check=True)
        commit = ["git", "-C", repository, *author, "commit", "-q", "--allow-empty", "-m", "a"]
        subprocess.run(commit, check=True)
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(inside)} | variables
        command = [sys.executable, "-c", program]
        return subprocess.run(command, cwd=inside, env=environment, capture_output=True, text=True).stdout.strip()

    assert recorded(tmp_path) == "None"
    assert recorded(tmp_path, GIT_DIR=str(tmp_path / ".git")) == "None"
    assert len(recorded(inside)) == 40
