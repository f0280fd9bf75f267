"""Kills, starves and misleads real tiny runs, and prints what held: python -m tests.trials.torture [trial ...]

Trials, each with the number of cases that --count replaces:
  kill 200      kill -9 at random instants and at single file operations; the run must end as if nothing had happened
  save 500      kill -9 of a process that only saves; a good checkpoint must load afterwards
  signals 50    SIGTERM, SIGINT, SIGUSR1 at random instants; exit 75, and the run must end as if nothing had happened
  damage 1000   flipped bits, cut, swapped, missing and foreign files; found and named, the older checkpoint used
  config 200    malformed command lines; one line, exit 2, nothing written
  hostile 18    files made to run code, to read elsewhere, or to fill the memory; refused at once
  disk 50       disk full at any write, folder read-only or removed; one line, exit 74, the checkpoint stays good
  evaluation 20 workers of an evaluation killed and stopped; found in time, none is left over, and the run ends as ever
  finite 100    NaN and infinity in reward, loss, gradient, weight, moment, priority, score; exit 70 before it is saved
  seeds 20      equal seeds end equal, different ones differ
  memory 50000  agent steps in which the process must not grow

Runs are processes forked from this one, which has imported most of what they need and composed their configuration;
from there on they are what the command line starts, but draw no learning curve.
Some trials on `disk` mount a small tmpfs and are left out where that is not allowed.
"""

import contextlib
import errno
import functools
import hashlib
import io
import itertools
import json
import multiprocessing
import os
import pickle
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random

import torch
from safetensors.torch import load_file

import harness.run as run_module
from harness.checkpoint import SCHEMA, Checkpoints, checkpoint_names, read_manifest, tensor_digest
from harness.command_line import Options, launch, refuse, schema_keys
from harness.config import ConfigError
from harness.errors import CheckpointError
from harness.inspection import inspect
from harness.logs import CsvLog
from harness.run_folder import RunFolder, check_run
from scripts import evaluate, inspect_run, train_atari, train_dmcontrol
from scripts.benchmarks import COMMANDS

FORK = multiprocessing.get_context("fork")
PATIENCE = 120  # seconds after which a process counts as hung

SCRIPTS = {"atari": train_atari, "dmcontrol": train_dmcontrol}
COMMON = ["preset=tiny", "device=cpu", "threads=1", "video=false"]
SETTINGS = {
    "atari": [
        *COMMON, "agent_steps=48", "checkpoint_every=12", "log_every=8", "eval_every=24", "loop.learning_starts=28",
        "evaluation.horizon=20", "agent.encoder.channels=[4,4,2]",
    ],
    "dmcontrol": [
        *COMMON, "task=cartpole_swingup", "env_steps=240", "eval_every_env_steps=120", "checkpoint_every=7",
        "log_every=5", "loop.learning_starts=15", "environment.episode_env_steps=64",
    ],
}  # fmt: skip


@dataclass
class Case:
    """What was done, and what was wrong afterwards: nothing, if all is well."""

    what: str
    problem: str = ""


# ---------------------------------------------------------------------------------------------------------------- runs


class Run:
    """A run folder and the processes that train in it, one after the other."""

    def __init__(self, folder: Path, benchmark: str, *settings: str):
        self.folder, self.benchmark = folder, benchmark
        self.config = replace(composed(benchmark, *SETTINGS[benchmark], *settings), run_dir=str(folder))
        self._streams = [folder.with_name(f"{folder.name}.{name}") for name in ("out", "err")]

    def start(self, prepare: Callable[[], None] = lambda: None, output: Path | None = None) -> FORK.Process:
        """Forks a process that calls `prepare` and trains; `output` takes its standard output."""
        files = [output or self._streams[0], self._streams[1]]
        process = FORK.Process(target=_train, args=(self.benchmark, self.config, files, prepare))
        process.start()
        return process

    def finish(self, **options) -> int:
        """Trains to the end, or until the process ends itself; returns its exit code."""
        process = self.start(**options)
        end(process, PATIENCE)
        return process.exitcode

    @property
    def output(self) -> str:
        return self._streams[0].read_text() if self._streams[0].exists() else ""

    @property
    def errors(self) -> str:
        return self._streams[1].read_text()

    def differences(self, reference: "Run") -> str:
        """Which parts ended otherwise than in `reference`."""
        mine, theirs = (dict(part[:2] for part in inspect(run.folder)) for run in (self, reference))
        return " ".join(f"{name} differs" for name in theirs if mine.get(name) != theirs[name])

    def ends_like(self, reference: "Run") -> str:
        """Finishes the run; empty if it ended as `reference` did."""
        code = self.finish()
        return f"exit {code} at the end: {self.errors}" if code else self.differences(reference)


@functools.cache
def composed(benchmark: str, *settings: str):
    """The configuration of these settings, as the command line makes it."""
    return COMMANDS[benchmark].resolve(settings)[1]


def _train(benchmark: str, config, streams: list[Path], prepare: Callable[[], None]) -> None:
    for number, path in zip((1, 2), streams, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
    sys.modules["__main__"] = SCRIPTS[benchmark]  # what spawned processes import first
    run_module.draw_learning_curve = lambda *arguments: "not drawn"  # it takes as long as all the rest
    prepare()
    try:
        sys.exit(SCRIPTS[benchmark].run(config))
    except ConfigError as error:
        sys.exit(refuse(error))


def end(process: FORK.Process, seconds: float) -> bool:
    """Waits `seconds`, then kills. Whether it had to."""
    process.join(seconds)
    late = process.is_alive()
    if late:
        process.kill()
        process.join()
    return late


@functools.cache
def references(scratch: Path) -> dict[str, tuple[Run, float]]:
    """An uninterrupted run of each benchmark, and the seconds that it took."""
    found = {}
    for benchmark in SETTINGS:
        run, start = Run(scratch / f"reference-{benchmark}", benchmark), time.monotonic()
        if run.finish() != 0:
            raise RuntimeError(f"the uninterrupted {benchmark} run fails: {run.errors}")
        found[benchmark] = (run, time.monotonic() - start)
    return found


def one_line(text: str) -> str:
    """A problem unless `text` is one line that says what is wrong."""
    return "" if text.startswith("error: ") and text.count("\n") == 1 else f"not one line: {text!r}"


FILE_OPERATIONS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree")


def at_file_operation(number: int, folder: Path, act: Callable[[], None]) -> Callable[[], None]:
    """Something to do in a process: `act` right before its operation `number` on the files of `folder`."""
    left = itertools.count(number, -1)

    def hook(event: str, arguments: tuple) -> None:
        if event in FILE_OPERATIONS and (event != "open" or str(arguments[0]).startswith(str(folder))):
            if next(left) == 0:
                act()

    return partial(sys.addaudithook, hook)


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# ------------------------------------------------------------------------------------------------ kill, save, signals


def kill(count: int, random: Random, scratch: Path) -> Iterator[Case]:
    reference = references(scratch.parent)
    while count > 0:
        benchmark = random.choice(list(reference))
        uninterrupted, seconds = reference[benchmark]
        run = Run(scratch / f"run-{count}", benchmark)
        phases = []
        for _ in range(min(count, 6)):
            if random.random() < 0.5:
                code = run.finish(prepare=at_file_operation(random.randrange(90), run.folder, kill_self))
            else:
                process = run.start()
                end(process, random.uniform(0, seconds))
                code = process.exitcode
            if code == 0:
                break
            phases.append(phase(run) if code == -signal.SIGKILL else f"exit {code}")
        problem = run.ends_like(uninterrupted)
        yield from (Case(name, problem or (run.errors if name.startswith("exit") else "")) for name in phases)
        count -= len(phases)
        shutil.rmtree(run.folder)


def phase(run: Run) -> str:
    """What a killed run was doing, by what it left and printed."""
    if any(run.folder.glob("checkpoints/.*.part")) or any(run.folder.glob("checkpoints/replay/*.part")):
        return "save"
    lines = run.output.splitlines()
    if not any(line.startswith("run folder") for line in lines):
        return "resume" if any(run.folder.glob("checkpoints/0*")) else "start-up"
    return "evaluation" if lines[-1].startswith("evaluating") else "training"


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
    """What is wrong with the newest checkpoint, which must be as new as step `oldest`, and its step."""
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


def signals(count: int, random: Random, scratch: Path) -> Iterator[Case]:
    reference = references(scratch.parent)
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    while count > 0:
        benchmark = random.choice(list(reference))
        uninterrupted, seconds = reference[benchmark]
        run = Run(scratch / f"run-{count}", benchmark)
        cases = []
        for _ in range(min(count, 4)):
            process = run.start()
            time.sleep(random.uniform(0.05, seconds))
            number = random.choice(numbers)
            if process.is_alive():
                os.kill(process.pid, number)
            hung = end(process, PATIENCE)
            what = f"{number.name}, {'ended' if process.exitcode == 0 else 'stopped'}"
            before = process.exitcode == -number and not run.output  # as usual before the run has begun
            right = process.exitcode in (0, 75) and not run.errors or before
            cases.append(Case(f"{number.name}, before the start" if before else what))
            if hung or not right:
                cases[-1].problem = f"exit {process.exitcode}, {run.errors}"
            if process.exitcode == 0:
                break
        problem = run.ends_like(uninterrupted)
        yield from (Case(case.what, case.problem or problem) for case in cases)
        count -= len(cases)
        shutil.rmtree(run.folder)


# -------------------------------------------------------------------------------------------------------------- damage


def damage(count: int, random: Random, scratch: Path) -> Iterator[Case]:
    """Every 50th case is a real run that goes on from the damaged checkpoints."""
    reference = references(scratch.parent)
    for number in range(count):
        benchmark = random.choice(list(reference))
        original, name = reference[benchmark][0], random.choice(list(DAMAGES))
        run = Run(scratch / "run", benchmark)
        shutil.copytree(original.folder, run.folder)
        checkpoints = RunFolder(run.folder).checkpoints
        DAMAGES[name](random, checkpoints, partial(checkpoints_of_another, benchmark, scratch))
        problem = loads_well(checkpoints, RunFolder(original.folder).checkpoints)
        if not problem and number % 50 == 0:
            (run.folder / "evaluations.csv").unlink()  # else it says that it is finished
            problem = resumes_well(run, original)
        yield Case(name, problem)
        shutil.rmtree(run.folder)


@functools.cache
def checkpoints_of_another(benchmark: str, scratch: Path) -> Path:
    """Those of a run with another seed."""
    run = Run(scratch / f"other-{benchmark}", benchmark, "seed=2")
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


def rewrite_manifest(checkpoint: Path, **changes) -> None:
    """Changes a manifest and its own checksum, as somebody who means it would."""
    manifest = json.loads((checkpoint / "manifest.json").read_text()) | changes
    manifest.pop("manifest_sha256")
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (checkpoint / "manifest.json").write_text(json.dumps(manifest | {"manifest_sha256": digest}))


def loads_well(checkpoints: Path, original: Path) -> str:
    """Empty if what loads is a checkpoint as it was written, and everything newer was named; or nothing was usable."""
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


# -------------------------------------------------------------------------------------------------------------- config

WRONG = {
    "atari": [
        "game=pacman", "game=", "agent_steps=0", "agent_steps=-1", "agent_steps=1.5", "agent_steps=many", "seed=-1",
        "seed=1e99", "preset=huge", "aux=spr", "fidelity=none", "mlr.mask.ratio=2", "mlr.mask.ratio=nan",
        "mlr.mask.ratio=-inf", "mlr.mask.strategy=cubes", "mlr.seq_len=5", "mlr.tau=2", "agent.batch_size=0",
        "agent.discount=2", "agent.encoder.kernels=[1]", "agent.encoder.channels=[]", "replay.capacity=3",
        "mask_ratio=1", "+new=1", "~mlr", "mlr=3", "mlr.mask=null", "game=[pong", "game=pong}", "'", '"', "=", "==",
        "=1", "a", "-x", "--cfg", "--cfg=all", "--multirun", "device=tpu", "device=cuda:x", "game=pong,boxing",
        "hydra.run.dir=x", "game@b=pong", "environment.image_size=1", "evaluation.episodes=0", "log_every=0",
        "checkpoint_every=0", "run_dir=/dev/null", "run_dir=/dev/null/x", f"run_dir={'a' * 300}",
        "run_dir=", "loop.replay_ratio=-1", "agent.learning_rate=true", "game=${seed}", "game=${nothing}",
        "seed=${seed}", "[" * 500, "game=" + "x" * 100_000, "threads=-1", "video=perhaps",
    ],
    "dmcontrol": [
        "task=cartpole", "task=none", "domain=cartpole", "domain=cartpole task_name=fly", "budget=7", "env_steps=-8",
        "env_steps=7", "task=walker_walk mlr.seq_len=5", "task=walker_walk agent.crop_size=200",
        "task=walker_walk environment.image_size=0", "task=walker_walk game=pong", "",
    ],
}  # fmt: skip
NASTY = [
    "nan", "inf", "-1", "0", "1e400", "null", "true", "''", "[]", "{}", "[[[[", "${x}", "\\", "\0", "\n", "é", "１",
    "x" * 5000, "0x10", "1_000", "9" * 5000, "-0", "1,2", "range(3)", "choice(1,2)", "!!python/object:os.system",
    "../..", "%s", "None",
]  # fmt: skip


def config(count: int, random: Random, scratch: Path) -> Iterator[Case]:
    """The scripts that read runs, the table, then made-up command lines, of which the valid ones are left out."""
    tables = [(name, [*line.split(" ")]) for name, lines in WRONG.items() for line in lines]
    lines = itertools.chain(tables, iter(partial(made_up, random), None))
    done = 0
    with contextlib.chdir(scratch):
        for case in itertools.islice(wrong_runs(scratch), count):
            done += 1
            yield case
        for index, (benchmark, arguments) in enumerate(lines):
            if done >= count:
                return
            code, errors, seconds = refusal(partial(launch, *without_training(benchmark), argv=arguments))
            if code == VALID and index >= len(tables):
                continue
            done += 1
            problem = "" if code == 2 else f"exit {code}"
            problem += one_line(errors) or (f"{seconds:.1f} s" if seconds > 2 else "")
            problem += f"wrote {os.listdir()}" if os.listdir() else ""
            yield Case("table" if index < len(tables) else "made up", problem and f"{arguments!r:.300}: {problem}")


VALID = 99


def without_training(benchmark: str) -> tuple:
    def found_valid(config) -> int:
        check_run(config)
        return VALID

    command = COMMANDS[benchmark]
    return command.benchmark, command.schema, command.validate, found_valid


def refusal(command: Callable[[], int]) -> tuple[object, str, float]:
    """Exit code, or the exception, with what went to the error stream and the processor's seconds."""
    errors, start = io.StringIO(), time.process_time()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            code = command()
        except (Exception, SystemExit) as error:
            code = repr(error)
    return code, errors.getvalue(), time.process_time() - start


def made_up(random: Random) -> tuple[str, list[str]]:
    benchmark = random.choice(list(COMMANDS))
    keys = list(schema_keys(COMMANDS[benchmark].schema))
    arguments = ["task=walker_walk"] if benchmark == "dmcontrol" else []
    for _ in range(random.randrange(1, 3)):
        values = [*NASTY, str(random.uniform(-1e6, 1e6)), chr(random.randrange(1, 50_000))]
        argument = f"{random.choice(['', '', '', '+', '++', '~'])}{random.choice(keys)}={random.choice(values)}"
        if random.random() < 0.3:
            position = random.randrange(len(argument))
            argument = argument[:position] + random.choice("=.[]{}'\"$,: \t@/") + argument[position:]
        arguments.append(argument)
    return benchmark, arguments


def wrong_runs(scratch: Path) -> Iterator[Case]:
    """What the scripts that read a run say of something else."""
    folders = (str(scratch), "/dev/null", "nowhere", "a\0b", "a" * 300)
    for script, argument in itertools.product((evaluate, inspect_run), folders):
        code, errors, seconds = refusal(partial(script.main, [argument]))
        problem = ("" if code == 2 else f"exit {code}") + one_line(errors) + (f"{seconds:.1f} s" if seconds > 2 else "")
        yield Case("scripts", problem and f"{script.__name__} {argument!r}: {problem}")


# ------------------------------------------------------------------------------------------------------------- hostile


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
    import zipfile

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
        if not answer.poll(PATIENCE // 6):
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


# ---------------------------------------------------------------------------------------------------------------- disk


def disk(count: int, random: Random, scratch: Path) -> Iterator[Case]:
    reference = references(scratch.parent)
    ways = [refused_write, removed_folder, full_output]
    if may_mount(scratch):
        ways += [small_disk, read_only]
    for number in range(count):
        benchmark = random.choice(list(reference))
        uninterrupted, seconds = reference[benchmark]
        way = ways[number % len(ways)]
        folder = scratch / f"disk-{number}"
        folder.mkdir()
        run = Run(folder / "run", benchmark)
        with mounted(folder) if way in (small_disk, read_only) else contextlib.nullcontext():
            yield way(run, uninterrupted, seconds, random)
        shutil.rmtree(folder)


def failed_well(run: Run, code: int, reference: Run) -> str:
    """Empty if the process ended by itself as it must with a disk that takes no more, and the run can be finished."""
    if code not in (0, 74):
        return f"exit {code}: {run.errors}"
    return (one_line(run.errors) if code else "") or run.ends_like(reference)


def refused_write(run: Run, reference: Run, seconds: float, random: Random) -> Case:
    number = random.choice([errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])

    def fail() -> None:
        raise OSError(number, os.strerror(number))

    code = run.finish(prepare=at_file_operation(random.randrange(2, 60), run.folder, fail))
    return Case(f"refused operation, exit {code}", failed_well(run, code, reference))


def small_disk(run: Run, reference: Run, seconds: float, random: Random) -> Case:
    disk = run.folder.parent
    used = sum(path.stat().st_size for path in reference.folder.rglob("*")) / 2**20
    remount(disk, f"size={int(random.uniform(0.05, 1.5) * used * 1024)}k")
    code = run.finish(output=reference.folder.with_suffix(".full"))
    errors = run.errors if code else ""
    remount(disk, "size=1g")
    problem = (one_line(errors) if code else "") or ("" if code in (0, 74) else f"exit {code}: {errors}")
    return Case(f"small disk, exit {code}", problem or run.ends_like(reference))


def read_only(run: Run, reference: Run, seconds: float, random: Random) -> Case:
    disk = run.folder.parent
    if random.random() < 0.5:  # in the middle of a run
        end(run.start(), random.uniform(0, seconds))
    elsewhere = Run(disk.with_suffix(".streams"), run.benchmark)
    elsewhere.config = run.config
    remount(disk, "ro")
    code = elsewhere.finish()
    finished = code == 0 and "is finished" in elsewhere.output
    right = 74 if run.folder.exists() else 2  # a folder that cannot be made is a wrong run_dir
    problem = "" if finished else one_line(elsewhere.errors) + ("" if code == right else f"exit {code}")
    remount(disk, "rw")
    return Case(f"read-only, exit {code}", problem or run.ends_like(reference))


def removed_folder(run: Run, reference: Run, seconds: float, random: Random) -> Case:
    process = run.start()
    process.join(random.uniform(0.1, 1) * seconds)
    shutil.rmtree(run.folder, ignore_errors=True)
    hung = end(process, PATIENCE)
    gone = not any(run.folder.glob("*"))
    problem = "hung" if hung else "" if gone or process.exitcode == 0 else f"left {os.listdir(run.folder)}"
    return Case(f"removed, exit {process.exitcode}", problem or failed_well(run, process.exitcode, reference))


def full_output(run: Run, reference: Run, seconds: float, random: Random) -> Case:
    code = run.finish(output=Path("/dev/full"))
    return Case(f"full output, exit {code}", failed_well(run, code, reference))


def may_mount(scratch: Path) -> bool:
    point = scratch / "mount"
    point.mkdir()
    try:
        with mounted(point):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@contextlib.contextmanager
def mounted(point: Path) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", point], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", point], check=True)


def remount(point: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", point], check=True)


# ---------------------------------------------------------------------------------------------------------- evaluation

FOUND_WITHIN = 30  # seconds
SPREADS = {  # where an evaluation runs, and its processes
    "workers": ("evaluation.background=false", "evaluation.workers=2"),
    "background": ("evaluation.background=true", "evaluation.workers=0"),
    "both": ("evaluation.background=true", "evaluation.workers=1"),
}


def evaluation(count: int, random: Random, scratch: Path) -> Iterator[Case]:
    """Every fifth case waits as long as a run usually does."""
    reference = references(scratch.parent)
    for number in range(count):
        benchmark, spread = random.choice(list(reference)), random.choice(list(SPREADS))
        sooner = [] if number % 5 == 0 else ["evaluation.timeout_seconds=10"]
        run = Run(scratch / f"run-{number}", benchmark, *SPREADS[spread], *sooner)
        case = lose_a_worker(run, reference[benchmark][0], random)
        yield Case(f"{spread}: {case.what}", case.problem and f"{benchmark}, {case.problem}")
        shutil.rmtree(run.folder)


def lose_a_worker(run: Run, reference: Run, random: Random) -> Case:
    """Kills or stops a process of one of the run's evaluations, or in some cases kills one and then the run."""
    process = run.start(prepare=os.setsid)
    evaluations, with_run = random.randrange(1, 4), random.random() < 0.25
    signalled = signal.SIGKILL if with_run else random.choice([signal.SIGKILL, signal.SIGSTOP])
    while process.is_alive() and not (run.output.count("evaluating") >= evaluations and workers_of(process.pid)):
        time.sleep(0.01)
    time.sleep(random.uniform(0, 1.5))
    workers = workers_of(process.pid)
    if workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(random.choice(workers), signalled)
    what = signalled.name if workers else "none there"
    if workers and with_run:
        end(process, random.uniform(0, 1))
        what, problem = f"{what}, then the run killed", ""
    else:
        seconds = seconds_until_found(run, process)
        if workers:
            what += ", not missed" if seconds is None else ", found"
        hung = end(process, PATIENCE)
        problem = "hung" if hung else f"exit {process.exitcode}: {run.errors}" if process.exitcode else ""
        if (seconds or 0) > FOUND_WITHIN:
            problem += f" found after {seconds:.0f} s"
    return Case(what, problem or left_over(process.pid) or run.ends_like(reference))


def seconds_until_found(run: Run, process: FORK.Process) -> float | None:
    """From now, or from the next evaluation's start if later; None if the run ends without noticing anything."""
    start, begun = time.monotonic(), run.output.count("evaluating")
    while process.is_alive():
        text = run.output
        if "played again" in text:
            return time.monotonic() - start
        if text.count("evaluating") > begun:
            start, begun = time.monotonic(), text.count("evaluating")
        process.join(0.05)
    return None


def left_over(session: int) -> str:
    """Processes of a session that go on after its run has ended."""
    deadline = time.monotonic() + 10
    while processes_of(session) and time.monotonic() < deadline:
        time.sleep(0.05)
    return " ".join(f"left {command}" for command in processes_of(session).values())


def workers_of(session: int) -> list[int]:
    return [pid for pid, command in processes_of(session).items() if "--multiprocessing-fork" in command]


def processes_of(session: int) -> dict[int, str]:
    """Command lines of the processes that are alive in a session, by their ids."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            state, _, _, owner = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(owner) == session and state not in "ZX":
                found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
    return found


# -------------------------------------------------------------------------------------------------------------- finite


def finite(count: int, random: Random, scratch: Path) -> Iterator[Case]:
    for number in range(count):
        benchmark = random.choice(list(SETTINGS))
        fault = random.choice([name for name in FAULTS if name != "priority" or benchmark == "atari"])
        value = random.choice([float("nan"), float("inf"), float("-inf")])
        run = Run(scratch / f"run-{number}", benchmark)
        code = run.finish(prepare=partial(poison, fault, value, Random(random.random())))
        problem = f"exit {code}: {run.errors}" if code != 70 else one_line(run.errors)
        if not RunFolder(run.folder).failure.is_file():
            problem += " no failure.json"
        problem += not_finite(run.folder)
        yield Case(fault, problem and f"{benchmark} {value}: {problem}")
        shutil.rmtree(run.folder)


def not_finite(folder: Path) -> str:
    """Files of a run that hold a NaN or an infinity."""
    found = [
        str(path.relative_to(folder))
        for path in folder.rglob("*.safetensors")
        if any(tensor.is_floating_point() and not tensor.isfinite().all() for tensor in load_file(path).values())
    ]
    for path in (RunFolder(folder).metrics, RunFolder(folder).evaluations):
        if any(re.fullmatch(r"nan|-?inf", value or "") for row in CsvLog(path).read() for value in row.values()):
            found.append(path.name)
    return f"not finite: {found}" if found else ""


def poison(fault: str, value: float, random: Random) -> None:
    """Makes the parts of the run that this process trains go wrong once."""
    make_parts = run_module.make_parts

    def poisoned(*arguments):
        parts = make_parts(*arguments)
        FAULTS[fault](parts, value, random)
        return parts

    run_module.make_parts = poisoned


def in_call(owner, name: str, number: int, before: Callable[[], None] | None = None, result=None) -> None:
    """Calls `before` before call `number` of a method, or changes its result by `result`."""
    method, calls = getattr(owner, name), itertools.count()

    def changed(*arguments, **named):
        due = next(calls) == number
        if due and before:
            before()
        value = method(*arguments, **named)
        return result(value) if due and result else value

    setattr(owner, name, changed)


def poison_reward(parts, value: float, random: Random) -> None:
    in_call(parts.environment, "step", random.randrange(25), result=lambda step: (step[0], value, *step[2:]))


def poison_score(parts, value: float, random: Random) -> None:
    in_call(parts, "evaluate", 0, result=lambda rows: [row | {"score": value} for row in rows])


def poison_loss(parts, value: float, random: Random) -> None:
    backward = torch.Tensor.backward

    def wrong(tensor, *arguments, **named):
        torch.Tensor.backward = backward
        return backward(tensor * value, *arguments, **named)

    in_call(parts.agent, "update", random.randrange(10), before=lambda: setattr(torch.Tensor, "backward", wrong))


def poison_gradient(parts, value: float, random: Random) -> None:
    parameter = random.choice(parts.agent.trained_parameters())

    def wrong(gradient):
        handle.remove()
        return torch.full_like(gradient, value)

    handle = parameter.register_hook(wrong)


def poison_weight(parts, value: float, random: Random) -> None:
    weights = random.choice(parts.agent.trained_parameters()).data
    place = tuple(random.randrange(side) for side in weights.shape)
    in_call(parts.agent, "update", random.randrange(10), before=lambda: weights[place].fill_(value))


def poison_moment(parts, value: float, random: Random) -> None:
    def wrong() -> None:
        states = [state for optimizer in parts.agent.optimizers.values() for state in optimizer.state.values()]
        random.choice(states)[random.choice(["exp_avg", "exp_avg_sq"])].fill_(value)

    in_call(parts.agent, "update", random.randrange(1, 10), before=wrong)


def poison_priority(parts, value: float, random: Random) -> None:
    method, number = parts.replay.update_priorities, random.randrange(10)
    calls = itertools.count()
    parts.replay.update_priorities = lambda indices, kl: method(indices, kl * value if next(calls) == number else kl)


FAULTS = {
    "reward": poison_reward,
    "score": poison_score,
    "loss": poison_loss,
    "gradient": poison_gradient,
    "weight": poison_weight,
    "moment": poison_moment,
    "priority": poison_priority,
}


# ------------------------------------------------------------------------------------------------------ seeds, memory


def seeds(count: int, random: Random, scratch: Path) -> Iterator[Case]:
    for number in range(0, count, 2):
        benchmark = list(SETTINGS)[number // 2 % 2]
        seed = random.randrange(10**6)
        runs = [Run(scratch / f"{number}-{i}", benchmark, f"seed={seed + (i == 2)}") for i in range(3)]
        codes = [run.finish() for run in runs]
        yield Case("equal", runs[1].differences(runs[0]) if codes == [0, 0, 0] else f"exits {codes}")
        names = ("weights", "replay", "environment", "metrics.csv")
        apart = runs[2].differences(runs[0]) if codes == [0, 0, 0] else ""
        yield Case("different", " ".join(f"{name} is equal" for name in names if f"{name} differs" not in apart))


GROWTH = 8  # megabytes that a process may be larger in its last quarter than in its second


def memory(count: int, random: Random, scratch: Path) -> Iterator[Case]:
    """Half of the steps with each benchmark."""
    for benchmark, length in (("atari", f"agent_steps={count // 2}"), ("dmcontrol", f"env_steps={count // 2 * 8}")):
        every = max(1, count // 100)
        sizes = [
            "replay.capacity=500", f"log_every={every}", f"checkpoint_every={every}", "loop.replay_ratio=0.2",
            f"{'eval_every' if benchmark == 'atari' else 'eval_every_env_steps'}=0",
        ]  # fmt: skip
        run = Run(scratch / benchmark, benchmark, length, *sizes)
        process, megabytes = run.start(), []
        while process.is_alive():
            process.join(0.05)
            with contextlib.suppress(OSError, IndexError):
                pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
                steps = re.findall(r"^(\d+)/", run.output, re.MULTILINE)
                megabytes.append((int(steps[-1]), pages * resource.getpagesize() / 1e6))
        quarters = {step * 8 // count: [] for step, _ in megabytes}
        for step, size in megabytes:
            quarters[step * 8 // count].append(size)
        size = [max(quarters.get(quarter, [0])) for quarter in (1, 3)]
        text = f"{benchmark}: {count // 2} steps, {size[0]:.1f} MB in the second quarter, {size[1]:.1f} MB in the last"
        problem = "" if process.exitcode == 0 and size[1] - size[0] < GROWTH and size[0] else "grew"
        yield Case(text, problem and f"{problem}, exit {process.exitcode}: {run.errors}")


# --------------------------------------------------------------------------------------------------------------- table

TRIALS = {  # with the goal, and the cases of --short
    "kill": (kill, 200, 2),
    "save": (save, 500, 20),
    "signals": (signals, 50, 1),
    "damage": (damage, 1000, 20),
    "config": (config, 200, 25),
    "hostile": (hostile, len(HOSTILE), len(HOSTILE)),
    "disk": (disk, 50, 2),
    "evaluation": (evaluation, 20, 2),
    "finite": (finite, 100, 2),
    "seeds": (seeds, 20, 0),
    "memory": (memory, 50_000, 0),
}


def main(arguments: list[str] | None = None) -> int:
    parser = Options(__doc__)
    parser.add_argument("trials", nargs="*", metavar="trial", help=f"any of {', '.join(TRIALS)}; by default all")
    parser.add_argument("--count", type=int, help="cases of each trial, instead of the goal")
    parser.add_argument("--short", action="store_true", help="a few cases of each trial")
    parser.add_argument("--seed", type=int, default=1, help="of what is drawn at random")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    try:
        options = parser.parse_args(arguments)
    except ConfigError as error:
        return refuse(error)
    unknown = set(options.trials) - TRIALS.keys()
    if unknown:
        print(f"error: no trial named {', '.join(sorted(unknown))}: {', '.join(TRIALS)}", file=sys.stderr)
        return 2
    import_all()
    rows = []
    print(f"{'trial':<11}{'cases':>7}{'failed':>8}{'seconds':>9}  what")
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.trials or TRIALS:
            trial, goal, short = TRIALS[name]
            count = options.count or (short if options.short else goal)
            if not count:  # too long for --short
                continue
            rows.append(row(name, trial, count, options.seed, Path(scratch)))
            print("{trial:<11}{cases:>7}{failed:>8}{seconds:>9.0f}  {what}".format(**rows[-1]), flush=True)
            for problem in rows[-1]["problems"][:10]:
                print(f"    {problem}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    return int(any(entry["failed"] for entry in rows))


def import_all() -> None:
    """What a run imports late, so that forked processes need not; except for OpenGL, which does not survive a fork."""
    import cv2  # noqa: F401
    import scipy.ndimage  # noqa: F401

    torch.set_num_threads(1)  # a forked process has no other threads
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])


def row(name: str, trial: Callable, count: int, seed: int, scratch: Path) -> dict:
    start = time.monotonic()
    folder = scratch / name
    folder.mkdir()
    cases = list(trial(count, Random(f"{name} {seed}"), folder))
    kinds = Counter(case.what for case in cases)
    problems = [f"{case.what}: {' '.join(case.problem.split())}" for case in cases if case.problem]
    return {
        "trial": name,
        "cases": len(cases),
        "failed": len(problems),
        "seconds": time.monotonic() - start,
        "seed": seed,
        "what": ", ".join(f"{kind} {number}" for kind, number in sorted(kinds.items())),
        "problems": problems,
    }


if __name__ == "__main__":
    sys.exit(main())
