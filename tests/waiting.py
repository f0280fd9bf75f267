"""Waiting in tests. The limit only ends a hang: no test measures speed by the clock."""

import time
from collections.abc import Callable

HANG = 1200.0  # seconds


def until(condition: Callable[[], object], pause: float = 0.05) -> None:
    """Waits for a condition to hold."""
    deadline = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < deadline, f"nothing happened within {HANG:g} s"
        time.sleep(pause)
