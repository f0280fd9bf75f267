"""Header of a run; a GPU is a stand-in here."""

from contextlib import closing
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from harness.header import describe
from harness.parts import make_parts, memory_needed
from harness.run_folder import RunFolder
from tests.conftest import make_config, make_dmcontrol_config
from tests.recipes import ATARI, DMCONTROL


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


@pytest.mark.parametrize("recipe, settings, line", [
    (ATARI, "auxiliary=none", ""),
    (ATARI, "auxiliary=none ladder=resets resets.every=31 loop.learning_starts=30", "2, after agent steps 32, 64"),
    (ATARI, "auxiliary=none ladder=resets", "none: resets.every=20000 does not fit 120 agent steps"),
    (DMCONTROL, "auxiliary=none ladder=resets resets.every=13", "4, after agent steps 13, 26, 39, ... 52"),
    (DMCONTROL, "auxiliary=none ladder=resets", "none: resets.every=25000 does not fit 60 agent steps"),
])  # fmt: skip
def test_the_header_says_when_resets_come(recipe, settings, line, tmp_path):
    make = make_config if recipe is ATARI else make_dmcontrol_config
    config = make(tmp_path / "run", *settings.split())
    parts = make_parts(config, recipe, torch.device("cpu"))
    with closing(parts.environment):
        lines = recipe.method.describe(config, parts.agent)
    assert [each for each in lines if each.startswith("resets")] == [f"resets       {line}"] * bool(line)


def test_memory_counts_each_network_once(tmp_path):
    """A trained value takes four floats, one of a copy that nothing trains a single one."""
    held = {}
    for name, settings in {
        "none": ["auxiliary=none"], "mlr": ["auxiliary=mlr"],
        "target": ["auxiliary=none", "agent.target_tau=0.005", "agent.act_with=target"],
    }.items():  # fmt: skip
        parts = make_parts(make_config(tmp_path / name, *settings), ATARI, torch.device("cpu"))
        parts.environment.close()
        held[name] = memory_needed(parts) - parts.replay.nbytes
        trained = sum(weight.numel() for weight in parts.agent.trained_parameters())
        copies = {"none": [], "mlr": parts.agent.auxiliary and parts.agent.auxiliary.targets.parameters()}
        frozen = copies.get(name, parts.agent.target and parts.agent.target.parameters())
        assert held[name] == 16 * trained + 4 * sum(weight.numel() for weight in frozen)
    assert held["none"] < held["target"] < held["mlr"]
