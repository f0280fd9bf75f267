"""Header of a run on a GPU, which is a stand-in here."""

from contextlib import closing
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from harness.header import describe
from harness.parts import make_parts
from harness.run_folder import RunFolder
from tests.conftest import make_config
from tests.recipes import ATARI


@pytest.mark.parametrize("capture, run_as", [("auto", "updates as CUDA graphs"), ("off", "updates run eagerly")])
def test_a_gpu_s_memory_is_told_once_updates_have_taken_theirs(capture, run_as, tmp_path, monkeypatch):
    """Recording has made updates; without it nothing has, and the line would tell too little."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A Card")
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 6.1e9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=12e9))
    config = make_config(tmp_path / "run", f"capture={capture}", "precision=bf16")
    parts, console = make_parts(config, ATARI, torch.device("cpu")), Console(record=True, width=200)
    with closing(parts.environment):
        describe(config, ATARI, parts, RunFolder(tmp_path / "run"), torch.device("cuda", 0), console)
    lines = console.export_text().splitlines()
    assert f"device       A Card, bf16, {run_as}" in lines
    assert ("GPU memory   6.1 GB of 12.0 GB" in lines) == (capture == "auto")
