"""Trial hostile: checkpoints made to run code, to read elsewhere, or to fill the memory."""

import hashlib
import io
import itertools
import json
import os
import pickle
import resource
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from harness.checkpoint import Checkpoints
from harness.errors import CheckpointError
from tests.trials.runs import FORK, PATIENCE, Case, rewrite_manifest
from tests.trials.save import CAPACITY, saved_rows, saved_state


class Pickled:
    """Would leave a file behind, if anything unpickled it."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def sign(folder: Path, file: Path, content: bytes) -> None:
    """Puts `content` into a file of the checkpoint 10 with checksums that fit."""
    file.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    if file.name == "state.safetensors":
        rewrite_manifest(folder / "000000010", state_sha256=digest)
    else:
        rewrite_manifest(folder / "000000010", pieces=[{"file": file.name, "start": 0, "stop": 10, "sha256": digest}])


def outside(folder: Path, file: Path) -> None:
    """Moves a file out and leaves a symbolic link."""
    target = folder.parent / f"outside-{file.name}"
    file.rename(target)
    file.symlink_to(target)


def rename_piece(folder: Path, name: str) -> None:
    checkpoint = folder / "000000010"
    (piece,) = json.loads((checkpoint / "manifest.json").read_text())["pieces"]
    rewrite_manifest(checkpoint, pieces=[piece | {"file": name}])


def header(text: bytes, length: int | None = None) -> bytes:
    return (len(text) if length is None else length).to_bytes(8, "little") + text


def zip_bomb() -> bytes:

    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("data", bytes(2**26))
        return file.getvalue()


def _state(folder: Path) -> Path:
    return folder / "000000010" / "state.safetensors"


def _piece(folder: Path) -> Path:
    return folder / "replay" / "000000000-000000010.safetensors"


def _manifest(folder: Path) -> Path:
    return folder / "000000010" / "manifest.json"


HUGE = b'{"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,4]}}'
HOSTILE: dict[str, Callable[[Path], None]] = {
    "pickle as state": lambda folder: sign(folder, _state(folder), pickle.dumps(Pickled(folder / "executed"))),
    "pickle as replay": lambda folder: sign(folder, _piece(folder), pickle.dumps(Pickled(folder / "executed"))),
    "pickle as manifest": lambda folder: _manifest(folder).write_bytes(pickle.dumps(Pickled(folder / "executed"))),
    "piece ../": lambda folder: rename_piece(folder, "../../outside.safetensors"),
    "piece /": lambda folder: rename_piece(folder, "/etc/passwd"),
    "linked state": lambda folder: outside(folder, _state(folder)),
    "linked replay": lambda folder: outside(folder, _piece(folder)),
    "linked manifest": lambda folder: outside(folder, _manifest(folder)),
    "linked checkpoint": lambda folder: outside(folder, folder / "000000010"),
    "header of 2**62 bytes": lambda folder: sign(folder, _state(folder), header(b"{}", 2**62)),
    "header of 90 MB": lambda folder: sign(folder, _state(folder), header(b"{" + b" " * 90_000_000 + b"}")),
    "tensor of 2**62 values": lambda folder: sign(folder, _state(folder), header(HUGE) + bytes(4)),
    "deep header": lambda folder: sign(folder, _piece(folder), header(b'{"a":' * 100_000 + b"1" + b"}" * 100_000)),
    "zip bomb": lambda folder: sign(folder, _state(folder), zip_bomb()),
    "sparse state of 1 TB": lambda folder: os.truncate(_state(folder), 2**40),
    "deep manifest": lambda folder: _manifest(folder).write_text("[" * 1_000_000 + "]" * 1_000_000),
    "manifest of 60 MB": lambda folder: _manifest(folder).write_text(f'{{"schema": [{"[]," * 20_000_000}[]]}}'),
    "manifest of other types": lambda folder: rewrite_manifest(folder / "000000010", values=[], versions=[], pieces={}),
}


def hostile(count: int, random: Random, scratch: Path) -> Iterator[Case]:
    for name in itertools.islice(HOSTILE, count):
        folder = scratch / name.replace("/", "") / "checkpoints"
        folder.mkdir(parents=True)
        with Checkpoints(folder, CAPACITY, "hash") as checkpoints:
            checkpoints.save(10, saved_state(10), saved_rows)
        HOSTILE[name](folder)
        answer, mine = FORK.Pipe(duplex=False)
        process = FORK.Process(target=load_hostile, args=(folder, mine))
        process.start()
        if not answer.poll(PATIENCE):
            process.kill()
            yield Case("refused", f"{name}: no answer")
            continue
        said, seconds, megabytes = answer.recv()
        process.join()
        checks = {said: not said.startswith("refused"), "ran code": (folder / "executed").exists()}
        checks |= {f"{seconds:.1f} s": seconds > 1, f"{megabytes:.0f} MB": megabytes > 200}
        problem = ", ".join(text for text, failed in checks.items() if failed)
        yield Case("refused", problem and f"{name}: {problem}")
        shutil.rmtree(folder)


def load_hostile(folder: Path, answer) -> None:
    """Sends what came of loading, with its processor seconds and megabytes."""
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    lines = []
    try:
        Checkpoints(folder, CAPACITY, "hash").load(lambda start, rows: None, lines.append)
        said = "loaded"
    except CheckpointError:
        said = "refused" if len(lines) == 1 and "\n" not in lines[0] else f"said {lines}"
    except BaseException as error:
        said = f"raised {error!r:.200}"
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1000
    answer.send((said, time.process_time() - start, memory))
