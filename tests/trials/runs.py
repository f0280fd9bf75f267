"""Real tiny runs in forked processes, and what may be done to them."""

import functools
import hashlib
import itertools
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import harness.run as run_module
from commands import train_atari, train_dmcontrol, train_mwm
from harness.config import ConfigError
from harness.inspection import inspect
from harness.messages import refuse
from harness.output import lasting_output
from recipes import COMMANDS, load_recipe

FORK = multiprocessing.get_context("fork")
PATIENCE = 900  # seconds after which a process counts as hung, on a busy machine too

SCRIPTS = {"atari": train_atari, "dmcontrol": train_dmcontrol, "mwm": train_mwm}
COMMON = ["preset=tiny", "device=cpu", "threads=1", "video=false"]
SETTINGS = {
    "atari": [
        *COMMON, "game=pong", "agent_steps=48", "checkpoint_every=12", "log_every=8", "eval_every=24",
        "loop.learning_starts=28", "evaluation.horizon=20", "agent.encoder.channels=[4,4,2]",
    ],
    "dmcontrol": [
        *COMMON, "task=cartpole_swingup", "env_steps=240", "eval_every_env_steps=120", "checkpoint_every=7",
        "log_every=5", "loop.learning_starts=15", "environment.episode_env_steps=64",
    ],
    "mwm": [*COMMON, "task=window_close", "checkpoint_every=7"],
}  # fmt: skip
SUITES = ["atari", "dmcontrol"]  # names of settings that trials draw from


@dataclass
class Case:
    """An attempt and the problem found afterwards: none, if all is well."""

    what: str
    problem: str = ""


class Run:
    """A run folder and the processes that train in it, one after the other."""

    def __init__(self, folder: Path, suite: str, *settings: str):
        self.folder, self.suite = folder, suite
        self.config = replace(composed(suite, *SETTINGS[suite], *settings), run_dir=str(folder))
        self._streams = [folder.with_name(f"{folder.name}.{name}") for name in ("out", "err")]

    def start(self, prepare: Callable[[], None] = lambda: None, output: Path | None = None) -> FORK.Process:
        """Forks a process that calls `prepare` and trains; `output` takes its standard output."""
        files = [output or self._streams[0], self._streams[1]]
        process = FORK.Process(target=_train, args=(self.suite, self.config, files, prepare))
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
        """Parts that ended otherwise than in `reference`."""
        mine, theirs = (dict(part[:2] for part in inspect(run.folder)) for run in (self, reference))
        return " ".join(f"{name} differs" for name in theirs if mine.get(name) != theirs[name])

    def ends_like(self, reference: "Run") -> str:
        """Finishes the run; empty if it ended as `reference` did."""
        code = self.finish()
        return f"exit {code} at the end: {self.errors}" if code else self.differences(reference)


@functools.cache
def composed(suite: str, *settings: str):
    """The configuration of these settings, as the command line makes it."""
    return COMMANDS[suite].resolve(settings)


@lasting_output()
def _train(suite: str, config, streams: list[Path], prepare: Callable[[], None]) -> None:
    for number, path in zip((1, 2), streams, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
    sys.modules["__main__"] = SCRIPTS[suite]  # spawned processes import it first
    run_module.draw_run = lambda *arguments: "not drawn"  # it takes as long as all the rest
    prepare()
    try:
        sys.exit(run_module.run(config, load_recipe(config)))
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
    """An uninterrupted run of each suite, and the seconds that it took."""
    found = {}
    for suite in SUITES:
        run, start = Run(scratch / f"reference-{suite}", suite), time.monotonic()
        if run.finish() != 0:
            raise RuntimeError(f"the uninterrupted {suite} run fails: {run.errors}")
        found[suite] = (run, time.monotonic() - start)
    return found


def one_line(text: str) -> str:
    """A problem unless `text` is one line that says what is wrong."""
    return "" if text.startswith("error: ") and text.count("\n") == 1 else f"not one line: {text!r}"


FILE_OPERATIONS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree")


def at_file_operation(number: int, folder: Path, act: Callable[[], None]) -> Callable[[], None]:
    """Preparation of a process that calls `act` right before its operation `number` on the files of `folder`."""
    left = itertools.count(number, -1)

    def hook(event: str, arguments: tuple) -> None:
        if event in FILE_OPERATIONS and (event != "open" or str(arguments[0]).startswith(str(folder))):
            if next(left) == 0:
                act()

    return partial(sys.addaudithook, hook)


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def rewrite_manifest(checkpoint: Path, **changes) -> None:
    """Changes a manifest and its own checksum, as somebody who means it would."""
    manifest = json.loads((checkpoint / "manifest.json").read_text()) | changes
    manifest.pop("manifest_sha256")
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (checkpoint / "manifest.json").write_text(json.dumps(manifest | {"manifest_sha256": digest}))
