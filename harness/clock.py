"""Seconds by phase of a step, by the wall's clock unless another is given."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Clock:
    """On CUDA a phase's seconds are those of the main thread: updates only enqueue, `act` waits for them."""

    def __init__(self, now: Callable[[], float] = time.perf_counter):
        self._now = now
        self._seconds: dict[str, float] = {}
        self._start = now()
        self.last = 0.0  # seconds of the phase that ended last

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = self._now()
        yield
        self.last = self._now() - start
        self._seconds[phase] = self._seconds.get(phase, 0.0) + self.last

    def read(self) -> dict[str, float]:
        """Seconds by phase and in `total` since the last reading, and a new beginning."""
        now = self._now()
        seconds = {**self._seconds, "total": now - self._start}
        self._seconds, self._start = {}, now
        return seconds
