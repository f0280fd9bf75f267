import dataclasses
import json

import pytest

from mlr.config import ConfigError
from mlr.training.run_folder import RunFolder, config_hash, open_run, read_config
from tests.conftest import make_config


def test_layout_and_manifest(tmp_path):
    config = make_config(tmp_path / "run", "seed=7")
    folder = open_run(config, {"game": "pong"})
    assert read_config(folder.path)["seed"] == 7
    open_run(config, {"game": "pong"})
    manifest = json.loads(folder.manifest.read_text())
    assert manifest["config_hash"] == config_hash(config) == config_hash(dataclasses.asdict(config))
    assert len(manifest["starts"]) == 2
    assert {"python", "torch", "versions", "git_commit", "cpu", "gpu", "torch_threads"} <= manifest["starts"][0].keys()


def test_another_configuration_is_refused_and_nothing_written(tmp_path):
    folder = open_run(make_config(tmp_path / "run"), {})
    before = {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")}
    with pytest.raises(ConfigError, match="mlr.mask.ratio is 0.5 there and 0.25 here.*choose another run_dir"):
        open_run(make_config(tmp_path / "run", "mlr.mask.ratio=0.25"), {})
    assert before == {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")}


def test_keys_that_do_not_change_learning_may_change(tmp_path):
    first = make_config(tmp_path / "run")
    other = make_config(tmp_path / "run", "log_every=7", "checkpoint_every=33", "threads=2", "video=false")
    assert config_hash(first) == config_hash(other)
    open_run(first, {})
    open_run(other, {})


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty and no run folder"):
        open_run(make_config(tmp_path), {})
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_reading_what_is_no_run(tmp_path):
    with pytest.raises(ConfigError, match="no run folder"):
        read_config(tmp_path)
    with pytest.raises(ConfigError, match="no saved weights"):
        RunFolder(tmp_path).newest_weights()
