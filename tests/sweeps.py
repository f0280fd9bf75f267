"""Sweeps of tiny runs, and what their attempts left behind."""

import json
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT
from tests.waiting import HANG

SWEEP = [sys.executable, str(ROOT / "scripts" / "sweep.py")]
# Whole runs, each a few seconds, most of which are imports.
TINY = [
    "preset=tiny", "device=cpu", "threads=1", "video=false", "checkpoint_every=12", "log_every=12",
    "atari.agent_steps=48", "atari.loop.learning_starts=28", "atari.evaluation.horizon=20",
    "dmcontrol.env_steps=120", "dmcontrol.eval_every_env_steps=0", "dmcontrol.loop.learning_starts=15",
    "dmcontrol.environment.episode_env_steps=64",
]  # fmt: skip


def tiny(suite: str, *changed: str) -> list[str]:
    """The settings of one suite's, or with "" of both; `changed` ones take the place of theirs."""
    keys = {setting.partition("=")[0] for setting in changed}
    kept = [setting for setting in TINY if setting.partition("=")[0] not in keys]
    others = tuple(f"{name}." for name in ("atari", "dmcontrol") if suite and name != suite)
    return [*(setting for setting in kept if not setting.startswith(others)), *changed]


def sweep(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """The command, run in `folder`, where runs/ will be."""
    command = [*SWEEP, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=HANG, check=False)


def attempts(folder: Path) -> dict[str, list[dict]]:
    """The record of every run below `folder`, by its path; a line that is being written is left out."""
    return {
        str(path.parent.relative_to(folder)): [
            json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")
        ]
        for path in sorted(folder.rglob(".sweep.jsonl"))
    }
