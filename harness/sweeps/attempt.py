"""One run until it is done, has failed for its own reason, or the sweep stops; the same here and in a cluster."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from harness.config import require
from harness.exit_codes import DONE, RESUME_ME
from harness.sweeps.plan import SweepRun
from harness.sweeps.record import (
    POLL_SECONDS,
    claimed,
    futile_attempts,
    is_finished,
    is_settled,
    log_path,
    note,
    progress,
)

# A run whose sweep is killed is told to write its checkpoint; without it, it would go on unseen.
BIND = ["setpriv", "--pdeathsig", "TERM", "--"]
TAIL_BYTES = 64 * 1024


class Outcome(NamedTuple):
    state: str  # done | failed | stopped: goes on with the next sweep
    reason: str = ""


def require_tools() -> None:
    require(shutil.which(BIND[0]) is not None, "setpriv is missing: apt-get install util-linux")


def run_to_end(
    run: SweepRun, environment: dict[str, str], attempts: int, stop: Callable[[], bool], job: str | None = None
) -> Outcome:
    """Starts the run, again and again while it asks for it or is killed, until it is finished.

    environment: variables beside this process's own. attempts: how many in a row may get no further.
    stop: asked all the time; once it is true the run is told to write its checkpoint. job: its number in a cluster.
    """
    try:
        with claimed(run, stop) as claim:
            while claim is not None and not stop():
                if is_settled(run):
                    return Outcome("done")
                outcome = _attempt(run, claim, environment, attempts, stop, job)
                if outcome is not None:
                    return outcome
        return Outcome("stopped")
    except OSError as error:
        return Outcome("failed", f"{run.run_dir}: {error}")


def _attempt(
    run: SweepRun, claim: int, environment: dict[str, str], attempts: int, stop: Callable[[], bool], job: str | None
) -> Outcome | None:
    """Outcome of an attempt; None if it is to be started once more."""
    before = progress(run)
    with log_path(run).open("ab") as log:
        start = log.seek(0, os.SEEK_END)
        process = subprocess.Popen(
            [*BIND, sys.executable, *run.arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"} | environment,  # else an error is not the last line
            pass_fds=[claim],  # it may outlive the sweep before it has a lock of its own
            start_new_session=True,  # Ctrl-C is the sweep's to pass on
        )
        try:
            where = {"host": socket.gethostname(), "job": job, "gpu": environment.get("CUDA_VISIBLE_DEVICES")}
            note(run, "started", pid=process.pid, **where, progress=before)
            code = _wait(process, stop)
        except BaseException:  # Ray cancels by one, and a full disk takes no note
            process.terminate()
            process.wait()
            raise
    after = progress(run)
    further = after != before
    outcome = _judge(run, code, last_line(log_path(run), start), attempts, further, stop())
    state, reason = outcome or ("again", "")
    note(run, "ended", code=code, outcome=state, reason=reason, progress=after, further=further)
    return outcome


def _wait(process: subprocess.Popen, stop: Callable[[], bool]) -> int:
    told = False
    while True:
        try:
            return process.wait(POLL_SECONDS)
        except subprocess.TimeoutExpired:
            if stop() and not told:
                process.terminate()
                told = True


def _judge(run: SweepRun, code: int, line: str, attempts: int, further: bool, stopped: bool) -> Outcome | None:
    if code == DONE:
        return Outcome("done") if is_finished(run) else Outcome("failed", "exit code 0, but rows are missing")
    if stopped:  # a signal to all processes of a job may have hit anything
        return Outcome("stopped")
    if code == RESUME_ME or code < 0:
        how = "by exit code 75" if code == RESUME_ME else f"by {signal.Signals(-code).name}"
        if further or futile_attempts(run) + 1 < attempts:
            return None
        return Outcome("failed", f"{attempts} attempts in a row got no further, the last one ended {how}: {line}")
    return Outcome("failed", f"exit code {code}: {line}")


def last_line(log: Path, start: int) -> str:
    """The error that an attempt whose output begins at byte `start` ended with, or else its last line."""
    with log.open("rb") as file:
        file.seek(max(start, file.seek(0, os.SEEK_END) - TAIL_BYTES))
        lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return next(iter(errors[-1:] or lines[-1:]), "it printed nothing").strip()
