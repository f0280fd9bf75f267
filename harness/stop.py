"""Signals become a request that the loop honours at the next step boundary."""

import os
import signal
import sys
from contextlib import suppress
from typing import Self

from harness.exit_codes import RESUME_ME

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)


def resume_me_at_a_signal() -> None:
    """From now on a stop signal ends the process with exit code 75 at once, until a `StopRequest` is entered.

    For a start-up, the imports above all: there is nothing to save yet. Not by an exception: some imports swallow any,
    and leave half a module behind.
    """

    def leave(number: int, frame) -> None:
        with suppress(Exception):  # a stream may be in the middle of a write
            sys.stdout.flush()
        os._exit(RESUME_ME)

    for number in honoured():
        signal.signal(number, leave)


def honoured() -> list[int]:
    """The stop signals, without a SIGHUP that is ignored, as under nohup."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in STOP_SIGNALS if not (ignored and number == signal.SIGHUP)]


class StopRequested(Exception):
    """Raised by work that can be redone, such as an evaluation, when the run was asked to stop."""


class StopRequest:
    """Within this context a stop signal asks the run to stop; a second Ctrl-C stops it at once."""

    def __init__(self):
        self.requested = False

    def check(self) -> None:
        if self.requested:
            raise StopRequested

    def __enter__(self) -> Self:
        self._previous = {number: signal.signal(number, self._request) for number in honoured()}
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
