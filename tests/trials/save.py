"""Trial save: `kill -9` of a process that only saves."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import torch

from harness.checkpoint import Checkpoints
from harness.errors import CheckpointError
from tests.trials.runs import FORK, PATIENCE, Case, at_file_operation, end, kill_self

CAPACITY = 25  # steps that the replay of the savers holds


def save(count: int, random: Random, scratch: Path) -> Iterator[Case]:
    folder = scratch / "checkpoints"
    folder.mkdir()
    newest = 0
    for _ in range(count):
        stride, instant = random.randrange(1, 4), random.uniform(0, 0.06)
        by_operation = random.random() < 0.5
        prepare = at_file_operation(random.randrange(80), folder, kill_self) if by_operation else lambda: None
        writer = FORK.Process(target=save_until_killed, args=(folder, stride, prepare))
        writer.start()
        end(writer, PATIENCE if by_operation else instant)
        problem, newest = newest_saved(folder, newest)
        yield Case("file operation" if by_operation else "random instant", problem)


def save_until_killed(folder: Path, stride: int, prepare: Callable[[], None]) -> None:
    prepare()
    checkpoints = Checkpoints(folder, CAPACITY, "hash")
    loaded = checkpoints.load(lambda start, rows: None, lambda line: None)
    for step in itertools.count(stride if loaded is None else loaded[0] + stride, stride):
        checkpoints.save(step, saved_state(step), saved_rows)
        checkpoints.wait()


def saved_state(step: int) -> dict:
    return {"weights": {"large": torch.full((50, 50), float(step)), "small": torch.tensor(step)}, "step": step}


def saved_rows(start: int, stop: int) -> dict[str, torch.Tensor]:
    return {"values": torch.arange(start, stop)}


def newest_saved(folder: Path, oldest: int) -> tuple[str, int]:
    """Problem of the newest checkpoint, which must be as new as step `oldest`, and its step."""
    rows, lines = {}, []
    try:
        loaded = Checkpoints(folder, CAPACITY, "hash").load(
            lambda start, piece: rows.update(enumerate(piece["values"].tolist(), start)), lines.append
        )
    except CheckpointError as error:
        return str(error), oldest
    if loaded is None:
        return ("no checkpoint" if oldest else ""), oldest
    step, state = loaded
    expected = saved_state(step)
    whole = state["step"] == step and all(
        torch.equal(state["weights"][name], tensor) for name, tensor in expected["weights"].items()
    )
    held = all(rows.get(index) == index for index in range(max(0, step - CAPACITY), step))
    leftovers = len(list(folder.glob(".*"))) > 1
    checks = {"older than before": step < oldest, "wrong values": not whole, "wrong rows": not held}
    checks |= {"leftovers pile up": leftovers, "reported a damage": bool(lines)}
    return " ".join(name for name, failed in checks.items() if failed), step
