"""Checkpoints: one directory of a JSON manifest and safetensors each, and the replay in immutable pieces.

    checkpoints/000010000/manifest.json      values, checksums, versions, the pieces that belong to it
    checkpoints/000010000+000000500/...      the same after 500 of the updates that follow the next agent step
    checkpoints/000010000/state.safetensors  every tensor of every part
    checkpoints/replay/000000000-000010000.safetensors

A directory is written beside the older ones, flushed and renamed, so that a checkpoint is whole or absent.
A thread writes it, from a copy of the state, while training goes on. Loading runs no code and checks every file.
"""

import copy
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from importlib import metadata
from itertools import accumulate
from pathlib import Path
from threading import Thread
from typing import Any, Self

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from harness.config import ConfigError
from harness.disk import sync
from harness.errors import CheckpointError, NotFinite
from harness.run_folder import checkpoint_names, nested

SCHEMA = 6
SLASH = "%2F"  # in a key, where / separates keys of nested dicts
LARGEST_TEXT = 4 * 2**20  # bytes of a manifest, or of the header of a tensor file; parsed ones take far more
MOST_PIECES = 1000
ALIGNED = 64  # bytes, of a tensor's copy in the host's memory
TYPES = {
    "agent_steps": int,
    "updates_made": int | None,
    "capacity": int,
    "values": dict,
    "tensors": dict,
    "versions": dict,
    "pieces": list,
}


class Checkpoints:
    """The checkpoints of one run. Leaving the context waits for the one that is being written.

    newest: name of the checkpoint that was loaded, or begun to be written, last.
    """

    def __init__(self, folder: Path, capacity: int, config_hash: str):
        self._folder = folder
        self._capacity = capacity  # steps that the replay holds
        self._config_hash = config_hash
        self._pieces: list[dict] = []  # replay pieces of the newest whole checkpoint, oldest first
        self._previous: str | None = None  # name of the newest whole checkpoint
        self._writing: Writer | None = None
        self._copies: dict[str, torch.Tensor] = {}  # host copies; kept, as new memory takes longer than a copy
        self.newest: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        if kind is None or not issubclass(kind, KeyboardInterrupt):  # KeyboardInterrupt ends the process at once
            self.wait()

    def save(
        self,
        agent_steps: int,
        state: dict,
        rows: Callable[[int, int], dict[str, torch.Tensor]],
        updates_made: int | None = None,
    ) -> int:
        """Copies `state` (nested dicts of tensors, arrays and JSON values) and the replay, and begins to write them.

        rows(start, stop) gives copies of the replay's arrays of the global steps start..stop-1; only steps that the
        previous checkpoint lacks are written, and that one is kept beside the new one. updates_made: of the last agent
        step, where some of its updates are still to be made. Returns the tensors' bytes.
        Waits for the save before. Raises what that raised, and NotFinite if a value holds a NaN or an infinity.
        """
        self.wait()
        entries = flatten(state)
        pieces, start = self._usable_pieces(agent_steps)
        steps = rows(start, agent_steps) if start < agent_steps else {}
        require_finite(entries)
        require_finite(steps)
        tensors = self._copied({name: value for name, value in entries.items() if isinstance(value, torch.Tensor)})
        steps = {name: tensor.cpu().contiguous() for name, tensor in steps.items()}
        manifest = {
            "schema": SCHEMA,
            "agent_steps": agent_steps,
            "updates_made": updates_made,
            "capacity": self._capacity,
            "config_hash": self._config_hash,
            "versions": library_versions(),
            "threads": torch.get_num_threads(),
            "values": copy.deepcopy({name: value for name, value in entries.items() if name not in tensors}),
        }
        self.newest = checkpoint_name(agent_steps, updates_made)
        self._writing = Writer(lambda: self._write(manifest, tensors, pieces, start, steps))
        return sum(tensor.nbytes for tensor in (*tensors.values(), *steps.values()))

    def check(self) -> None:
        """Raises OSError if the last save has failed already."""
        if self._writing is not None and not self._writing.is_alive():
            self.wait()

    def wait(self) -> None:
        """Returns when the last save is on the disk. Raises OSError if the disk does not take it."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.join()  # to the thread's last instruction: torch aborts a process that ends while one runs
            if writing.error is not None:
                raise writing.error

    def _copied(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """In the host's memory, where nothing but the next save changes it.

        One block holds all: each pinned one is rounded up to a power of two.
        """
        if _forms(tensors) != _forms(self._copies):
            ends = [*accumulate(-(-tensor.nbytes // ALIGNED) * ALIGNED for tensor in tensors.values())]
            self._copies = {}  # makes room
            pinned = any(tensor.is_cuda for tensor in tensors.values())
            block = torch.empty(ends[-1] if ends else 0, dtype=torch.uint8, pin_memory=pinned)
            self._copies = {
                name: block[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
                for (name, tensor), start in zip(tensors.items(), [0, *ends[:-1]], strict=True)
            }
        for name, tensor in tensors.items():
            self._copies[name].copy_(tensor)
        return self._copies

    def _write(self, manifest: dict, tensors: dict, pieces: list[dict], start: int, steps: dict) -> None:
        for folder in (self._folder, self._folder / "replay"):
            folder.mkdir(exist_ok=True)  # not the run's own: somebody who removed that wants no other
        final = self._folder / checkpoint_name(manifest["agent_steps"], manifest["updates_made"])
        scratch = self._folder / f".{final.name}.part"
        for leftover in (*self._folder.glob(".*.part"), *self._folder.glob("replay/*.part")):  # files of killed saves
            _remove(leftover)
        try:
            if steps:
                pieces = [*pieces, self._write_piece(start, manifest["agent_steps"], steps)]
            digests = {name: tensor_digest(tensor) for name, tensor in tensors.items()}
            scratch.mkdir()
            _write_directory(scratch, manifest | {"tensors": digests, "pieces": pieces}, tensors)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)  # a full disk needs the room
            raise
        _remove(final)
        os.rename(scratch, final)
        flush(self._folder)
        self._pieces = pieces
        self._prune(final.name)

    def load(self, load_rows: Callable[[int, dict[str, torch.Tensor]], None], report: Callable[[str], None]):
        """The steps and the state of the newest checkpoint that is whole, with the replay restored; None without any.

        Each damaged one is reported in one line. Raises CheckpointError if there are some and none can be used.
        """
        names = checkpoint_names(self._folder)
        for name in reversed(names):
            try:
                manifest = read_manifest(self._folder / name)
                if manifest["config_hash"] != self._config_hash:
                    raise CheckpointError("it belongs to another configuration")
            except CheckpointError as error:
                report(f"checkpoint {self._folder / name} cannot be used: {error}")
                continue
            for difference in _differences(manifest):
                report(f"checkpoint {self._folder / name}: {difference}, so numbers may differ in the last digits")
            for piece in manifest["pieces"]:
                load_rows(piece["start"], load_file(self._piece(piece)))
            tensors = load_file(self._folder / name / "state.safetensors")
            self._pieces, self._previous, self.newest = manifest["pieces"], name, name
            return manifest["agent_steps"], nested(tensors | manifest["values"], _parts)
        if names:
            raise CheckpointError(f"no usable checkpoint in {self._folder}: restore its files, or delete it")
        return None

    def _usable_pieces(self, agent_steps: int) -> tuple[list[dict], int]:
        """Pieces of the newest checkpoint that the next one can list too, and the first step that they lack."""
        oldest = max(0, agent_steps - self._capacity)
        pieces = [piece for piece in self._pieces if piece["stop"] > oldest]
        if len(pieces) >= MOST_PIECES or not all(self._piece(piece).is_file() for piece in pieces):
            pieces = []
        return pieces, max(pieces[-1]["stop"] if pieces else 0, oldest)

    def _write_piece(self, start: int, stop: int, steps: dict[str, torch.Tensor]) -> dict:
        path = self._piece({"file": _piece_name(start, stop)})
        write_tensors(steps, path)
        flush(path.parent)
        return {"file": path.name, "start": start, "stop": stop, "sha256": _digest(path)}

    def _prune(self, newest: str) -> None:
        """Leaves the newest checkpoint, the one before it, and the pieces that these two list."""
        kept = {newest, self._previous}
        listed = set()
        for name in checkpoint_names(self._folder):
            if name in kept:
                manifest = json.loads((self._folder / name / "manifest.json").read_text())
                listed |= {piece["file"] for piece in manifest["pieces"]}
            else:
                _remove(self._folder / name)
        for path in (self._folder / "replay").iterdir():
            if path.name not in listed:
                path.unlink()
        self._previous = newest

    def _piece(self, piece: dict) -> Path:
        return self._folder / "replay" / piece["file"]


def read_manifest(path: Path) -> dict:
    """The manifest of a checkpoint all of whose files are there and unchanged.

    Raises CheckpointError, and ConfigError where this user has no right to read it.
    """
    if path.is_symlink() or not path.is_dir():
        raise CheckpointError("it is no directory")
    try:
        manifest = _parsed(path / "manifest.json")
        if manifest["schema"] != SCHEMA:
            raise CheckpointError(f"it has schema {manifest['schema']}, this version reads {SCHEMA}")
        is_whole = (
            manifest.pop("manifest_sha256") == _manifest_digest(manifest)
            and all(isinstance(manifest[key], kind) for key, kind in TYPES.items())
            and path.name == checkpoint_name(manifest["agent_steps"], manifest["updates_made"])
            and all(piece["file"] == _piece_name(piece["start"], piece["stop"]) for piece in manifest["pieces"])
        )
        if not is_whole:
            raise CheckpointError("its manifest is damaged")
        _require_digest(path / "state.safetensors", manifest["state_sha256"])
        for piece in manifest["pieces"]:
            _require_digest(path.parent / "replay" / piece["file"], piece["sha256"])
        return manifest
    except PermissionError as error:  # an older checkpoint would displace this one, which may be good
        raise ConfigError(f"{error.filename} cannot be read: give this user the right to read it") from error
    except OSError as error:
        raise CheckpointError(f"{Path(error.filename or path).name} cannot be read") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError("its manifest is damaged") from error


def _parsed(path: Path) -> dict:
    _require_plain_file(path)
    if path.stat().st_size > LARGEST_TEXT:
        raise CheckpointError("its manifest is too large to be one")
    return json.loads(path.read_text())


def _write_directory(path: Path, manifest: dict, tensors: dict[str, torch.Tensor]) -> None:
    """Writes and flushes the files of a checkpoint."""
    state, description = path / "state.safetensors", path / "manifest.json"
    write_tensors(tensors, state)
    manifest = manifest | {"state_sha256": _digest(state)}
    description.write_text(json.dumps(manifest | {"manifest_sha256": _manifest_digest(manifest)}))
    for file in (description, path):
        flush(file)


def write_tensors(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Writes and flushes a safetensors file, which is whole or absent. Raises OSError.

    It has the umask's permissions, where the library's own are 0600.
    """
    part = path.with_suffix(".part")
    try:
        part.touch()
        mode = part.stat().st_mode
        save_file(tensors, part, metadata)
        part.chmod(mode)
        flush(part)
        os.replace(part, path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, SafetensorError):
            raise OSError(str(error)) from error
        raise


def require_finite(entries: dict) -> None:
    """Raises NotFinite for a NaN or an infinity in one of these tensors or single numbers; lists are not searched."""
    for name, value in entries.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            # Both extremes of values with a NaN are NaN: one pass, where `isfinite` makes three and as many copies.
            finite = value.numel() == 0 or bool(torch.stack(torch.aminmax(value)).isfinite().all())
        else:
            finite = not isinstance(value, float) or math.isfinite(value)
        if not finite:
            raise NotFinite(f"{name} holds a NaN or an infinity")


def library_versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in ("torch", "numpy", "gymnasium", "ale-py", "dm_control", "mujoco")}


def _differences(manifest: dict) -> Iterator[str]:
    """Differences between this machine and the checkpoint's."""
    here = library_versions() | {"threads": torch.get_num_threads()}
    there = manifest["versions"] | {"threads": manifest["threads"]}
    for name, value in here.items():
        if there.get(name) != value:
            yield f"{name} was {there.get(name)} and is {value}"


def checkpoint_name(agent_steps: int, updates_made: int | None) -> str:
    """A name that sorts by age: updates_made of the last agent step, or None where all are made."""
    if updates_made is None:
        return f"{agent_steps:09d}"
    return f"{agent_steps - 1:09d}+{updates_made:09d}"


def _forms(tensors: dict[str, torch.Tensor]) -> dict:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def flatten(state: dict, prefix: str = "") -> dict[str, Any]:
    """Entries of nested dicts by path. Arrays become tensors, NumPy's scalars Python's, and JSON values stay."""
    entries: dict[str, Any] = {}
    for key, value in state.items():
        path = prefix + str(key).replace("/", SLASH)
        if isinstance(value, dict) and value:
            entries |= flatten(value, f"{path}/")
        elif isinstance(value, np.ndarray):
            entries[path] = torch.from_numpy(np.array(value, order="C"))
        elif isinstance(value, np.generic):
            entries[path] = value.item()
        else:
            entries[path] = value.detach() if isinstance(value, torch.Tensor) else value
    return entries


class Writer(Thread):
    """A started thread that does `work` and keeps its exception. The end of the process does not wait for it."""

    def __init__(self, work: Callable[[], None]):
        super().__init__(daemon=True, name="checkpoint")
        self._work = work
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self.error = error


def _parts(path: str) -> list[str]:
    return [part.replace(SLASH, "/") for part in path.split("/")]


def _piece_name(start: int, stop: int) -> str:
    return f"{start:09d}-{stop:09d}.safetensors"


def _require_plain_file(path: Path) -> None:
    if path.is_symlink() or not path.is_file():
        raise CheckpointError(f"{path.name} is missing")


def _require_digest(path: Path, digest: str) -> None:
    """Raises CheckpointError unless `path` is a safetensors file with this SHA-256; a file too large is not read."""
    _require_plain_file(path)
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    try:
        if header > LARGEST_TEXT:
            raise CheckpointError(f"{path.name} is damaged (its header is too large)")
        with safe_open(path, "numpy"):  # holds the header against the file's size
            pass
    except SafetensorError as error:
        raise CheckpointError(f"{path.name} is damaged (no tensor file)") from error
    if _digest(path) != digest:
        raise CheckpointError(f"{path.name} is damaged (checksum differs)")


def _remove(path: Path) -> None:
    """Removes a directory with what is in it, or whatever else has its name."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _manifest_digest(manifest: dict) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def tensor_digest(tensor: torch.Tensor) -> str:
    """SHA-256 of a CPU tensor's values, with its shape and type."""
    digest = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)}".encode())
    values = tensor.reshape(-1)
    if values.stride() != (1,):  # a single value may have any stride, and then has no bytes to look at
        values = values.new_empty(values.shape).copy_(values)
    digest.update(values.view(torch.uint8).numpy())
    return digest.hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Waits until a file, or a directory's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)
