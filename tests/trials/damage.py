"""Trial damage: flipped bits, cut, swapped, missing and foreign files of a checkpoint."""

import functools
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random

import torch
from safetensors.torch import load_file

from harness.checkpoint import SCHEMA, Checkpoints, read_manifest, tensor_digest
from harness.errors import CheckpointError
from harness.run_folder import RunFolder, checkpoint_names
from tests.trials.runs import Case, Run, one_line, references, rewrite_manifest


def damage(count: int, random: Random, scratch: Path) -> Iterator[Case]:
    """Every 50th case is a real run that goes on from the damaged checkpoints."""
    reference = references(scratch.parent)
    for number in range(count):
        suite = random.choice(list(reference))
        original, name = reference[suite][0], random.choice(list(DAMAGES))
        run = Run(scratch / "run", suite)
        shutil.copytree(original.folder, run.folder)
        checkpoints = RunFolder(run.folder).checkpoints
        DAMAGES[name](random, checkpoints, partial(checkpoints_of_another, suite, scratch))
        problem = loads_well(checkpoints, RunFolder(original.folder).checkpoints)
        if not problem and number % 50 == 0:
            (run.folder / "evaluations.csv").unlink()  # else it says that it is finished
            problem = resumes_well(run, original)
        yield Case(name, problem)
        shutil.rmtree(run.folder)


@functools.cache
def checkpoints_of_another(suite: str, scratch: Path) -> Path:
    """Checkpoints of a run with another seed."""
    run = Run(scratch / f"other-{suite}", suite, "seed=2")
    run.finish()
    return RunFolder(run.folder).checkpoints


def some_file(random: Random, checkpoints: Path) -> Path:
    return random.choice(sorted(path for path in checkpoints.rglob("*") if path.is_file()))


def flip_bit(random: Random, checkpoints: Path, other: Callable[[], Path]) -> None:
    path = some_file(random, checkpoints)
    content = bytearray(path.read_bytes())
    content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    path.write_bytes(content)


def cut(random: Random, checkpoints: Path, other: Callable[[], Path]) -> None:
    path = some_file(random, checkpoints)
    os.truncate(path, random.randrange(path.stat().st_size))


def swap_files(random: Random, checkpoints: Path, other: Callable[[], Path]) -> None:
    first, second = some_file(random, checkpoints), some_file(random, checkpoints)
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def swap_checkpoints(random: Random, checkpoints: Path, other: Callable[[], Path]) -> None:
    first, second = (checkpoints / name for name in checkpoint_names(checkpoints))
    first.rename(checkpoints / "swap")
    second.rename(first)
    (checkpoints / "swap").rename(second)


def rename_checkpoint(random: Random, checkpoints: Path, other: Callable[[], Path]) -> None:
    path = checkpoints / random.choice(checkpoint_names(checkpoints))
    path.rename(checkpoints / f"{random.randrange(100, 10**9):09d}")


def take_others(random: Random, checkpoints: Path, other: Callable[[], Path]) -> None:
    """The newest checkpoint, or all of them, or the replay."""
    name = random.choice([checkpoint_names(checkpoints)[-1], ".", "replay"])
    shutil.copytree(other() / name, checkpoints / name, dirs_exist_ok=True)


def newer_schema(random: Random, checkpoints: Path, other: Callable[[], Path]) -> None:
    name = random.choice(checkpoint_names(checkpoints))
    rewrite_manifest(checkpoints / name, schema=random.randrange(SCHEMA + 1, 100))


def not_a_directory(random: Random, checkpoints: Path, other: Callable[[], Path]) -> None:
    (checkpoints / f"{random.randrange(100, 10**9):09d}").write_bytes(random.randbytes(100))


DAMAGES = {
    "flipped bit": flip_bit,
    "cut file": cut,
    "missing file": lambda random, checkpoints, other: some_file(random, checkpoints).unlink(),
    "longer file": lambda random, checkpoints, other: some_file(random, checkpoints).open("ab").write(b"\0"),
    "swapped files": swap_files,
    "swapped checkpoints": swap_checkpoints,
    "renamed checkpoint": rename_checkpoint,
    "another run's": take_others,
    "newer schema": newer_schema,
    "file for directory": not_a_directory,
}


def loads_well(checkpoints: Path, original: Path) -> str:
    """Problem unless a checkpoint loads as it was written and all newer ones were named, or none was usable."""
    newest = original / checkpoint_names(original)[-1]
    manifest = read_manifest(newest)
    pieces, lines = {}, []
    loader = Checkpoints(checkpoints, manifest["capacity"], manifest["config_hash"])
    try:
        step, state = loader.load(lambda start, rows: pieces.update({start: rows}), lines.append)
    except CheckpointError as error:
        return "" if lines and "\n" not in str(error) else f"unnamed: {error}"
    names = checkpoint_names(checkpoints)
    used = names.index(f"{step:09d}")
    if len(lines) != len(names) - used - 1 or any("\n" in line for line in lines):
        return f"{lines} for {names}, of which {step} was used"
    written = read_manifest(original / f"{step:09d}")
    tensors = {name: tensor_digest(value) for name, value in flat(state) if isinstance(value, torch.Tensor)}
    rows = {start: {key: tensor_digest(value) for key, value in columns.items()} for start, columns in pieces.items()}
    for piece in written["pieces"]:
        there = load_file(original / "replay" / piece["file"])
        if rows[piece["start"]] != {key: tensor_digest(value) for key, value in there.items()}:
            return f"other rows in {piece['file']}"
    return "" if tensors == written["tensors"] else "other tensors than were written"


def flat(tree: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}/")
        else:
            yield prefix + key, value


def resumes_well(run: Run, original: Run) -> str:
    code = run.finish()
    if code == 2:
        return one_line(run.errors)
    return f"exit {code}: {run.errors}" if code else run.differences(original)
