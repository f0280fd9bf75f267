"""A process that works for this one. It ends with this one, however that ends, and is found when it dies or hangs.

Nothing here imports torch: environment workers stay small.
"""

import ctypes
import math
import multiprocessing
import os
import pickle
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, Self

from harness.errors import WorkerLost
from harness.stop import STOP_SIGNALS

SPAWN = multiprocessing.get_context("spawn")  # a forked process would share threads' locks, CUDA and OpenGL with us
PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl
END_SECONDS = 5.0  # for a killed process to be gone; one that hangs in a driver or a file system may never be


class Worker:
    """Runs target(connection, *arguments) in a spawned process; everything it is given must be picklable.

    Messages should be small: then each is sent in one piece, and a worker cannot hang in the middle of one. Use as a
    context manager, at whose end the process and those that it has started are killed, and waited for some seconds.
    """

    def __init__(self, name: str, timeout_seconds: float, target: Callable, *arguments):
        self._name, self._timeout = name, timeout_seconds
        self._connection, theirs = SPAWN.Pipe()
        self._process = SPAWN.Process(target=_work, args=(target, theirs, *arguments))
        # A worker inherits the blocked signals: whether a run stops is the run's decision, also where a terminal or a
        # scheduler signals every process of it.
        resource_tracker.ensure_running()  # starts the tracker, which inside `start` would unblock the signals
        previous = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)
        theirs.close()
        self._heard = time.monotonic()

    def send(self, message: Any) -> None:
        """Raises WorkerLost if nobody is there to read it."""
        self._heard = time.monotonic()  # an answer is due from now on
        try:
            self._connection.send(message)
        except OSError as error:
            raise WorkerLost(self._death()) from error

    def ready(self, seconds: float) -> bool:
        """Tells whether a message arrives within `seconds`. Raises WorkerLost after too long a silence."""
        left = max(0.0, self._heard + self._timeout - time.monotonic())
        if self._connection.poll(min(seconds, left)):
            return True
        if left <= seconds:
            raise WorkerLost(f"{self._name} said nothing for {self._timeout:g} s")
        return False

    def receive(self) -> Any:
        """The next message, waited for. Raises WorkerLost without one, and what the worker raised.

        The worker's traceback is a note of that, or all that is left of what cannot be sent.
        """
        self.ready(math.inf)
        try:
            message = self._connection.recv()
        except (EOFError, OSError) as error:
            raise WorkerLost(self._death()) from error
        self._heard = time.monotonic()
        if isinstance(message, Exception):
            raise message
        return message

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def close(self) -> None:
        children = _children(self._process.pid) if self._process.is_alive() else []
        self._process.kill()  # SIGKILL, as the worker blocks other signals
        for child in children:  # one that hangs would stay
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        self._process.join(END_SECONDS)
        self._connection.close()

    def _death(self) -> str:
        self._process.join(1)
        code = self._process.exitcode
        return f"{self._name} died ({f'exit code {code}' if code is None or code >= 0 else signal.Signals(-code).name})"


def _children(process: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except FileNotFoundError:  # some kernels do not tell
        return []


def end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)


def _work(target: Callable, connection, *arguments) -> None:
    end_with_parent()
    try:
        target(connection, *arguments)
    except Exception as error:
        trace = traceback.format_exc()
        error.add_note(trace)
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # some exceptions cannot be sent
            error = RuntimeError(trace)
        with suppress(OSError):  # there may be nobody left to work for
            connection.send(error)
