"""Checkpoints: one directory of a JSON manifest and safetensors each, and the replay in immutable pieces.

    checkpoints/000010000/manifest.json      values, checksums, the pieces that belong to it
    checkpoints/000010000/state.safetensors  every tensor of every part
    checkpoints/replay/000000000-000010000.safetensors

A directory is written beside the older ones, flushed and renamed, so that a checkpoint is whole or absent.
Loading runs no code and checks every file.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

SCHEMA = 1


class CheckpointError(Exception):
    """A checkpoint that cannot be used; the message is one line."""


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, folder: Path, capacity: int, config_hash: str):
        self._folder = folder
        self._capacity = capacity  # steps that the replay holds
        self._config_hash = config_hash
        self._pieces: list[dict] = []  # of the newest checkpoint, oldest first
        self._previous: str | None = None

    @property
    def newest(self) -> int | None:
        """Agent steps of the checkpoint that was last written or loaded."""
        return None if self._previous is None else int(self._previous)

    def save(self, agent_steps: int, state: dict, rows: Callable[[int, int], dict[str, torch.Tensor]]) -> Path:
        """Writes `state` (nested dicts of tensors, arrays and JSON values) and the replay.

        rows(start, stop) gives the replay's arrays of the global steps start..stop-1; only steps that the previous
        checkpoint lacks are written. The previous checkpoint is kept beside the new one.
        """
        (self._folder / "replay").mkdir(parents=True, exist_ok=True)
        self._pieces = self._extended_pieces(agent_steps, rows)
        tensors, values = {}, {}
        _flatten(state, "", tensors, values)
        final = self._folder / f"{agent_steps:09d}"
        scratch = self._folder / f".{final.name}.part"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        save_file(tensors, scratch / "state.safetensors")
        manifest = {
            "schema": SCHEMA,
            "agent_steps": agent_steps,
            "config_hash": self._config_hash,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "values": values,
            "sha256": {"state.safetensors": _digest(scratch / "state.safetensors")},
            "pieces": self._pieces,
        }
        (scratch / "manifest.json").write_text(json.dumps(manifest | {"manifest_sha256": _manifest_digest(manifest)}))
        for path in (scratch / "state.safetensors", scratch / "manifest.json", scratch):
            flush(path)
        shutil.rmtree(final, ignore_errors=True)
        os.rename(scratch, final)
        flush(self._folder)
        self._prune(final.name)
        return final

    def load(self, load_rows: Callable[[int, dict[str, torch.Tensor]], None], report: Callable[[str], None]):
        """The steps and the state of the newest checkpoint that is whole, with the replay restored; None without any.

        Each damaged one is reported in one line. Raises CheckpointError if there are some and none can be used.
        """
        names = _names(self._folder)
        for name in reversed(names):
            try:
                manifest = _read_manifest(self._folder / name, self._config_hash)
            except CheckpointError as error:
                report(f"checkpoint {self._folder / name} cannot be used: {error}")
                continue
            for piece in manifest["pieces"]:
                load_rows(piece["start"], load_file(self._folder / "replay" / piece["file"]))
            tensors = load_file(self._folder / name / "state.safetensors")
            self._pieces, self._previous = manifest["pieces"], name
            return manifest["agent_steps"], _unflatten(tensors | manifest["values"])
        if names:
            raise CheckpointError(f"no usable checkpoint in {self._folder}: delete that folder to start anew")
        return None

    def _extended_pieces(self, agent_steps: int, rows) -> list[dict]:
        oldest = max(0, agent_steps - self._capacity)
        pieces = [piece for piece in self._pieces if piece["stop"] > oldest]
        start = max(pieces[-1]["stop"] if pieces else 0, oldest)
        if start < agent_steps:
            path = self._folder / "replay" / f"{start:09d}-{agent_steps:09d}.safetensors"
            part = path.with_suffix(".part")
            save_file(rows(start, agent_steps), part)
            flush(part)
            digest = _digest(part)
            os.replace(part, path)
            flush(path.parent)
            pieces.append({"file": path.name, "start": start, "stop": agent_steps, "sha256": digest})
        return pieces

    def _prune(self, newest: str) -> None:
        """Leaves the newest checkpoint, the one before it, and the pieces that these two list."""
        kept = {newest, self._previous}
        listed = set()
        for name in _names(self._folder):
            if name in kept:
                manifest = json.loads((self._folder / name / "manifest.json").read_text())
                listed |= {piece["file"] for piece in manifest["pieces"]}
            else:
                shutil.rmtree(self._folder / name)
        for path in (self._folder / "replay").iterdir():
            if path.name not in listed:
                path.unlink()
        self._previous = newest


def _read_manifest(path: Path, config_hash: str) -> dict:
    """The manifest of a checkpoint all of whose files are there and unchanged. Raises CheckpointError."""
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        if manifest["schema"] != SCHEMA:
            raise CheckpointError(f"it has schema {manifest['schema']}, this version reads {SCHEMA}")
        if manifest.pop("manifest_sha256") != _manifest_digest(manifest) or manifest["agent_steps"] != int(path.name):
            raise CheckpointError("its manifest is damaged")
        if manifest["config_hash"] != config_hash:
            raise CheckpointError("it belongs to another configuration")
        _require_digest(path / "state.safetensors", manifest["sha256"]["state.safetensors"])
        for piece in manifest["pieces"]:
            _require_digest(path.parent / "replay" / piece["file"], piece["sha256"])
        return manifest
    except OSError as error:
        raise CheckpointError(f"{Path(error.filename or path).name} cannot be read") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError("its manifest is damaged") from error


def _names(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.name.isdigit())


def _flatten(node: dict, prefix: str, tensors: dict, values: dict) -> None:
    for key, value in node.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict):
            _flatten(value, f"{path}/", tensors, values)
        elif isinstance(value, np.ndarray):
            tensors[path] = torch.from_numpy(np.array(value, order="C"))
        elif isinstance(value, torch.Tensor):
            tensors[path] = value.detach().cpu().contiguous()
        else:
            values[path] = value


def _unflatten(flat: dict) -> dict:
    tree: dict = {}
    for path, value in flat.items():
        *parents, leaf = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree


def _require_digest(path: Path, digest: str) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path.name} is missing")
    if _digest(path) != digest:
        raise CheckpointError(f"{path.name} is damaged (checksum differs)")


def _manifest_digest(manifest: dict) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Waits until a file, or a directory's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
