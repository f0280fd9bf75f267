"""Tiny runs give the numbers recorded in `data/unchanged_runs.json`, also after a renaming.

Checkpoint entries are compared as multisets without names: digests of tensors and replay columns, and plain numbers.
Each recorded entry must be found as often as recorded. Entries may move to another part, and new ones may appear.
CSV columns are compared by name; `configs/renamed.yaml` maps old names to new ones under `columns`.
Text in a checkpoint is not compared: it holds names. CSV columns of time, code and machine differ between equal runs.

Floats differ between kinds of CPU, renderers and versions of libraries. A record holds these versions and digests of
fixed calculations. The tests are skipped where no record is of this machine, and the reason names the differences.

To record anew, after an intended change of numbers: `PYTHONPATH=. python -m tests.test_unchanged_runs`. It drops the
records of other machines. `--add` keeps them, at a commit whose numbers they hold. Serial and interrupted runs must
agree, or nothing is written.
"""

import copy
import csv
import functools
import hashlib
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml

from atari.environment import AtariEnv
from dmcontrol.environment import DMControlEnv
from dmcontrol.rendering import choose_backend
from harness.checkpoint import tensor_digest
from harness.exit_codes import DONE, RESUME_ME
from harness.inspection import newest_checkpoint, part_of, replay_digests
from harness.run import run
from harness.run_folder import RunFolder
from harness.seeding import Generators
from tests.conftest import ROOT, make_config, make_dmcontrol_config
from tests.recipes import ATARI, DMCONTROL

RECORD = Path(__file__).parent / "data" / "unchanged_runs.json"
RENAMED = ROOT / "configs" / "renamed.yaml"
LIBRARIES = ("torch", "numpy", "opencv-python-headless", "gymnasium", "ale-py", "dm_control", "mujoco")
DIGITS = 16  # of a SHA-256; 64 bits tell a few thousand digests apart
NOT_COMPARED = {"version", "hardware", "source", "config_hash", "settings_hash"}
LOGS = ("metrics.csv", "evaluations.csv")


@dataclass(frozen=True)
class Suite:
    parts: Any  # passed to `run` with the configuration
    make_config: Callable
    environment: type
    settings: tuple[str, ...]
    stop: int  # agent step of the stop request, after the first updates and between two checkpoints


SUITES = {
    "atari": Suite(
        ATARI,
        make_config,
        AtariEnv,
        ("agent_steps=70", "loop.learning_starts=50", "evaluation.horizon=100"),
        stop=62,
    ),
    "dmcontrol": Suite(
        DMCONTROL,
        make_dmcontrol_config,
        DMControlEnv,
        ("env_steps=320", "eval_every_env_steps=0", "loop.learning_starts=20"),
        stop=33,
    ),
}
RUNS = {  # suite, further settings, interrupted too
    "atari-pong-mlr": ("atari", (), True),
    "atari-pong-baseline": ("atari", ("auxiliary=none",), True),
    "atari-pong-mlr-paper": ("atari", ("fidelity=paper",), False),
    "dmcontrol-cartpole_swingup-mlr": ("dmcontrol", ("eval_every_env_steps=320",), True),
    "dmcontrol-cartpole_swingup-baseline": ("dmcontrol", ("auxiliary=none",), True),
    "dmcontrol-cartpole_swingup-mlr-paper": ("dmcontrol", ("fidelity=paper",), False),
    "dmcontrol-reacher_easy-mlr": ("dmcontrol", ("task=reacher_easy", "env_steps=160"), False),
}


def cases() -> Iterator:
    for name, (suite, _, interrupted) in RUNS.items():
        marks = [pytest.mark.gl] if suite == "dmcontrol" else []
        for stops in (False, True)[: 1 + interrupted]:
            yield pytest.param(name, stops, marks=marks, id=f"{name}-{'interrupted' if stops else 'serial'}")


@pytest.mark.parametrize("name, interrupted", list(cases()))
def test_a_run_gives_the_recorded_numbers(name, interrupted, tmp_path):
    record = record_of_this_machine(renders=RUNS[name][0] == "dmcontrol")
    found = numbers(play(name, tmp_path / "run", interrupted), old_column_names())
    if composed(name).auxiliary == "none":
        found["tensors"]["unused generators"] = unused_generators(composed(name).seed)
    lost = list(differences(record["runs"][name], found))
    assert lost == [], "\n".join(lost)


def test_a_changed_number_is_a_difference_and_a_move_is_none():
    recorded = read_records()[0]["runs"]["atari-pong-mlr"]
    assert list(differences(recorded, recorded)) == []
    for kind in ("tensors", "values"):
        for part, entries in recorded[kind].items():
            entry, count = next(iter(entries.items()))
            changed = copy.deepcopy(recorded)
            changed[kind][part][entry] -= 1
            changed[kind]["another part"] = {"another entry": 1}
            assert f"1 of the {kind} of {part}" in differences(recorded, changed)
            del changed[kind][part][entry]
            changed[kind]["another part"][entry] = count
            assert list(differences(recorded, changed)) == []
    for kind in ("replay columns", *LOGS):
        for entry in recorded[kind]:
            changed = copy.deepcopy(recorded)
            del changed[kind][entry]
            (line,) = differences(recorded, changed)
            assert kind in line


def play(name: str, folder: Path, interrupted: bool) -> Path:
    """Trains and evaluates a run of the table; returns its folder."""
    suite = SUITES[RUNS[name][0]]
    config = replace(composed(name), run_dir=str(folder))
    if interrupted:
        with stop_request(suite.environment, suite.stop):
            assert run(config, suite.parts) == RESUME_ME
        path, _ = newest_checkpoint(RunFolder(folder))
        assert int(path.name) == suite.stop
    assert run(config, suite.parts) == DONE
    return folder


@functools.cache
def composed(name: str):
    """The configuration of a run without its folder. Composing takes as long as a short training."""
    suite = SUITES[RUNS[name][0]]
    return suite.make_config(Path("unset"), "video=false", *suite.settings, *RUNS[name][1])


@contextmanager
def stop_request(environment: type, step: int) -> Iterator[None]:
    """Sends this process SIGTERM when an environment takes its `step`-th step.

    The training environment gets there first: episodes of earlier evaluations are shorter.
    """
    taken, original = Counter(), environment.step

    def counted(self, action):
        taken[self] += 1
        if taken[self] == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, action)

    environment.step = counted
    try:
        yield
    finally:
        environment.step = original


def numbers(folder: Path, old_names: dict[str, str]) -> dict:
    """Contents of a run folder in the form of the record. old_names: old name of a CSV column, by its new one."""
    run_folder = RunFolder(folder)
    path, manifest = newest_checkpoint(run_folder)
    tensors, values = {}, {}
    for name, digest in manifest["tensors"].items():
        tensors.setdefault(part_of(name), Counter())[digest[:DIGITS]] += 1
    for name, value in manifest["values"].items():
        if not isinstance(value, str) and value not in ([], {}):
            values.setdefault(part_of(name), Counter())[json.dumps(value)] += 1
    columns = replay_digests(path.parent / "replay", manifest)
    return {
        "tensors": tensors,
        "values": values,
        "replay columns": Counter(digest[:DIGITS] for digest in columns.values()),
        **{log: csv_columns(folder / log, old_names) for log in LOGS},
    }


def unused_generators(seed: int) -> Counter:
    """Digests of the generators that a Baseline had before an auxiliary owned them; it never drew from them."""
    names = ("mask", "augmentation_mlr_target", "augmentation_mlr_masked")
    return Counter(tensor_digest(each.get_state())[:DIGITS] for each in Generators(seed, torch.device("cpu"), names))


def csv_columns(path: Path, old_names: dict[str, str]) -> dict[str, str]:
    """Digests of the columns that equal runs have in common, by old names."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = {old_names.get(name, name): name for name in rows[0] if not name.startswith("time/")}
    return {old: digest([row[name] for row in rows]) for old, name in columns.items() if old not in NOT_COMPARED}


def old_column_names() -> dict[str, str]:
    renamed = yaml.safe_load(RENAMED.read_text())["columns"] if RENAMED.is_file() else {}
    return {new: old for old, new in renamed.items()}


def differences(record: dict, found: dict) -> Iterator[str]:
    """A line for each kind and part of the record of which a run lacks something."""
    for kind in ("tensors", "values"):
        there = sum(map(Counter, found[kind].values()), Counter())
        lost = sum(map(Counter, record[kind].values()), Counter()) - there
        for part, entries in record[kind].items():
            count = sum((lost & Counter(entries)).values())
            if count:
                yield f"{count} of the {kind} of {part}"
    lost = Counter(record["replay columns"]) - Counter(found["replay columns"])
    if lost:
        yield f"{sum(lost.values())} of the replay columns"
    for log in LOGS:
        for column, values in record[log].items():
            if found[log].get(column) != values:
                yield f"column {column} of {log}"


def read_records() -> list[dict]:
    return json.loads(RECORD.read_text())


def record_of_this_machine(renders: bool) -> dict:
    """The record made with the arithmetic of this machine. Skips the test where there is none."""
    here, others = machine(renders), []
    for record in read_records():
        recorded = record["machine"]
        unequal = [
            f"{name} is {value}, was {recorded[name]}" for name, value in here.items() if value != recorded[name]
        ]
        if not unequal:
            return record
        others.append("; ".join(unequal))
    pytest.skip(f"recorded with other arithmetics: {' | '.join(others)}")


@functools.cache
def machine(renders: bool) -> dict[str, str]:
    """Versions of libraries, and digests of fixed calculations."""
    found = {name: metadata.version(name) for name in LIBRARIES}
    found |= {"torch arithmetic": torch_arithmetic(), "resizing": resizing()}
    return found | {"physics and pictures": physics()} if renders else found


def torch_arithmetic() -> str:
    """Convolution, layer norm, products, exponentials and their gradients, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    shapes = ((8, 4, 84, 84), (8, 4, 8, 8), (8, 8, 4, 4), (648, 64), (64, 11))
    images, first, second, wide, narrow = (torch.randn(shape, generator=generator) for shape in shapes)
    weights = [weight.requires_grad_() for weight in (first, second, wide, narrow)]
    maps = F.conv2d(F.conv2d(images, first, stride=4).relu(), second, stride=2).flatten(1)
    hidden = F.gelu(F.layer_norm(maps, maps.shape[1:]) @ wide)
    attended = F.scaled_dot_product_attention(hidden[None], hidden[None], hidden[None])[0]
    logs = (F.layer_norm(attended, (64,)) @ narrow).log_softmax(-1)
    gradients = torch.autograd.grad((logs.exp() * logs).sum(), weights)
    torch.set_num_threads(threads)
    return digest([tensor_digest(tensor.detach()) for tensor in (maps, hidden, attended, logs, *gradients)])


def resizing() -> str:
    """Scaling of a picture as large as an emulator's."""
    screen = np.random.default_rng(0).integers(0, 256, (210, 160), dtype=np.uint8)
    return digest(cv2.resize(screen, (84, 84), interpolation=cv2.INTER_LINEAR).tolist())


def physics() -> str:
    """Steps of a task of the suite, and a picture of it."""
    choose_backend()
    from dm_control import suite

    task = suite.load("reacher", "easy", task_kwargs={"random": 0})
    task.physics.model.vis.quality.shadowsize = 256
    task.reset()
    for action in np.linspace(-1, 1, 20):
        task.step(np.array([action, -action]))
    picture = task.physics.render(40, 40, camera_id=0)
    return digest([task.physics.get_state().tolist(), picture.tolist()])


def digest(value) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:DIGITS]


def record(keep: list[dict]) -> None:
    """Writes this machine's record beside those to keep. Interrupted runs must equal serial ones."""
    runs = {}
    with TemporaryDirectory() as scratch:
        for name, (_, _, interrupted) in RUNS.items():
            runs[name] = numbers(play(name, Path(scratch) / name, False), old_column_names())
            if interrupted:
                assert runs[name] == numbers(play(name, Path(scratch) / f"{name}_stopped", True), old_column_names())
    here = {"machine": machine(renders=True), "runs": runs}
    records = [each for each in keep if each["machine"] != here["machine"]]
    RECORD.write_text(json.dumps([*records, here], indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    record(read_records() if "--add" in sys.argv else [])
