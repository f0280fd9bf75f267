"""Digests of a run's parts on disk: equal runs show equal digests."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from safetensors.torch import load_file

from harness.checkpoint import read_manifest, tensor_digest
from harness.config import ConfigError
from harness.errors import CheckpointError
from harness.logs import CsvLog
from harness.run_folder import RunFolder, checkpoint_names, read_config

PARTS = ("weights", "optimisers", "replay", "generators", "environment", "counters")
TIMES = "time/"  # columns that differ between equal runs


def inspect(run: Path) -> Iterator[tuple[str, str, str]]:
    """Name, SHA-256 and description of each part of the newest checkpoint, then of each CSV file.

    Raises ConfigError for what is no run folder, and where no checkpoint is whole.
    """
    read_config(run)
    folder = RunFolder(run)
    path, manifest = newest_checkpoint(folder)
    entries = manifest["tensors"] | {
        name: json.dumps(value, sort_keys=True) for name, value in manifest["values"].items()
    }
    for part in PARTS:
        mine = {name: entry for name, entry in entries.items() if part_of(name) == part}
        note = f"{len(mine)} entries"
        if part == "replay":
            mine |= replay_digests(folder.checkpoints / "replay", manifest)
            note = f"{len(manifest['pieces'])} pieces"
        yield part, _digest(mine), f"{note}, checkpoint of agent step {manifest['agent_steps']}"
    for file in (folder.metrics, folder.evaluations, folder.episodes):
        rows = [{key: value for key, value in row.items() if not key.startswith(TIMES)} for row in CsvLog(file).read()]
        yield file.name, _digest(dict(enumerate(rows))), f"{len(rows)} rows, without columns under {TIMES}"


def newest_checkpoint(folder: RunFolder) -> tuple[Path, dict]:
    """Folder and manifest of the newest checkpoint that is whole. Raises ConfigError without one."""
    for name in reversed(checkpoint_names(folder.checkpoints)):
        path = folder.checkpoints / name
        try:
            return path, read_manifest(path)
        except CheckpointError:
            continue
    raise ConfigError(f"{folder.path} has no whole checkpoint")


def part_of(name: str) -> str:
    """Name of the part that an entry of a checkpoint belongs to, by its path."""
    section, _, rest = name.partition("/")
    if section != "agent":
        return section if section in PARTS else "counters"
    if rest.startswith(("generators", "exploration")):
        return "generators"
    return "optimisers" if rest.startswith("optimizer") else "weights"


def replay_digests(folder: Path, manifest: dict) -> dict[str, str]:
    """SHA-256 of each column over the steps that the replay holds, however they are cut into pieces."""
    columns: dict[str, list[str]] = {}
    first_step = max(0, manifest["agent_steps"] - manifest["capacity"])
    first_frame = None  # frames with numbers of their own may be in two pieces
    for piece in manifest["pieces"]:
        rows = load_file(folder / piece["file"])
        skipped = max(0, first_step - piece["start"])
        numbers = rows.pop("frame_numbers", None)
        if numbers is not None:
            newest = rows["newest_frames"][skipped:]
            first_frame = int(newest[0]) if first_frame is None else first_frame
            rows["frames"] = rows["frames"][numbers >= first_frame]
            first_frame = int(numbers[-1]) + 1
        for name, values in rows.items():
            kept = values if name == "frames" and numbers is not None else values[skipped:]
            columns.setdefault(name, []).extend(tensor_digest(row) for row in kept)
    return {name: _digest(dict(enumerate(digests))) for name, digests in columns.items()}


def _digest(entries: dict) -> str:
    return hashlib.sha256(json.dumps(sorted(entries.items(), key=lambda item: str(item[0]))).encode()).hexdigest()
