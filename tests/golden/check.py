"""One compared quantity of a reference file, and how a list of them is judged."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

DATA = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Check:
    file: str
    quantity: str
    error: float
    tolerance: float  # 0: exact

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance  # a NaN error fails


def relative(file: str, quantity: str, actual, expected, tolerance: float) -> Check:
    """Largest difference over the expected array's largest entry; shapes must agree."""
    actual, expected = np.asarray(actual, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    if actual.shape != expected.shape:
        return Check(file, f"{quantity}: shape {actual.shape} instead of {expected.shape}", float("inf"), tolerance)
    if expected.size == 0:
        return Check(file, quantity, 0.0, tolerance)
    scale = np.abs(expected).max() or 1.0
    return Check(file, quantity, float(np.abs(actual - expected).max() / scale), tolerance)


def exact(file: str, quantity: str, actual, expected) -> Check:
    """Number of entries that differ; shapes must agree."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    if actual.shape != expected.shape:
        return Check(file, f"{quantity}: shape {actual.shape} instead of {expected.shape}", float("inf"), 0.0)
    return Check(file, quantity, float(np.count_nonzero(actual != expected)), 0.0)


def assert_all(checks: Iterable[Check]) -> None:
    """Fails with every quantity that is off; an empty list is a failure too."""
    checks = list(checks)
    assert checks, "nothing was compared"
    failed = [check for check in checks if not check.passed]
    assert not failed, "\n".join(map(str, failed))
