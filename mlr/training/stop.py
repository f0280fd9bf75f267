"""Signals become a request that the loop honours at the next step boundary."""

import signal
from typing import Self


class StopRequested(Exception):
    """Raised by work that can be redone, such as an evaluation, when the run was asked to stop."""


class StopRequest:
    """Within this context SIGTERM, SIGUSR1 and Ctrl-C ask the run to stop; a second Ctrl-C stops it at once."""

    signals = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

    def __init__(self):
        self.requested = False

    def check(self) -> None:
        if self.requested:
            raise StopRequested

    def __enter__(self) -> Self:
        self._previous = {number: signal.signal(number, self._request) for number in self.signals}
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
