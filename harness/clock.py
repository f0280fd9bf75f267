"""Wall-clock seconds by phase of a step."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """On CUDA a phase's seconds are those of the main thread: updates only enqueue, `act` waits for them."""

    def __init__(self):
        self._seconds: dict[str, float] = {}
        self._start = time.perf_counter()
        self.last = 0.0  # seconds of the phase that ended last

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.last = time.perf_counter() - start
        self._seconds[phase] = self._seconds.get(phase, 0.0) + self.last

    def read(self) -> dict[str, float]:
        """Seconds by phase and in `total` since the last reading, and a new beginning."""
        now = time.perf_counter()
        seconds = {**self._seconds, "total": now - self._start}
        self._seconds, self._start = {}, now
        return seconds
