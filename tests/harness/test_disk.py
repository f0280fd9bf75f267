import errno
import fcntl
import os
from pathlib import Path

import pytest
import torch

from harness import disk
from harness.checkpoint import Checkpoints, write_tensors
from harness.config import ConfigError
from harness.run_folder import RunFolder
from harness.weights import read_about, read_tensors, read_weights


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_tensor_files_follow_the_umask(tmp_path, umask, mode):
    previous = os.umask(umask)
    try:
        write_tensors({"a": torch.ones(2)}, tmp_path / "file")
        with Checkpoints(tmp_path, 25, "hash") as checkpoints:
            checkpoints.save(10, {"a": torch.ones(2)}, lambda start, stop: {"values": torch.arange(start, stop)})
    finally:
        os.umask(previous)
    files = [tmp_path / "file", *tmp_path.glob("*/*.safetensors")]
    assert len(files) == 3 and {file.stat().st_mode & 0o777 for file in files} == {mode}


def test_unreadable_and_damaged_weights_are_two_messages(tmp_path):
    (tmp_path / "damaged").write_bytes(b"damaged")
    for name, message in (("damaged", "damaged, or of another"), ("absent", "cannot be read")):
        with pytest.raises(ConfigError, match=message):
            read_weights(tmp_path / name, lambda tensors: torch.nn.ModuleDict(), torch.device("cpu"))


@pytest.mark.parametrize("read", [read_about, read_tensors])
def test_tensors_of_somebody_else_are_not_called_absent_or_damaged(tmp_path, monkeypatch, read):
    write_tensors({"a": torch.ones(2)}, tmp_path / "file")
    monkeypatch.setattr(Path, "open", refusing(errno.EACCES))  # root may read what has no permission
    with pytest.raises(ConfigError, match="file cannot be read: Permission denied"):
        read(tmp_path / "file")


def refusing(number):
    def refuse(*arguments):
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize("number", disk.NO_LOCK)
def test_a_run_goes_on_where_there_are_no_locks(tmp_path, monkeypatch, capsys, number):
    disk.warn.cache_clear()
    monkeypatch.setattr(fcntl, "flock", refusing(number))
    for _ in range(2):
        with RunFolder(tmp_path / "run").locked():
            pass
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("number", disk.NO_SYNC)
def test_a_checkpoint_is_written_where_nothing_can_be_flushed(tmp_path, monkeypatch, capsys, number):
    disk.warn.cache_clear()
    monkeypatch.setattr(os, "fsync", refusing(number))
    with Checkpoints(tmp_path, 25, "hash") as checkpoints:
        checkpoints.save(10, {"a": 1}, lambda start, stop: {"values": torch.arange(start, stop)})
    assert (tmp_path / "000000010").is_dir() and capsys.readouterr().err.count("\n") == 1


def test_other_errors_of_the_disk_stay_errors(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", refusing(errno.EIO))
    monkeypatch.setattr(fcntl, "flock", refusing(errno.EIO))
    for call in (lambda: disk.sync(0), lambda: disk.lock(0, fcntl.LOCK_EX)):
        with pytest.raises(OSError, match="Input/output"):
            call()
