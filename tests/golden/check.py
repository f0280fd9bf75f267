"""One compared quantity of a reference file, and how a list of them is judged."""

import re
from collections.abc import Iterable, Mapping
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


def load(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file by name."""
    with np.load(path) as file:
        return dict(file)


def setting(arrays: Mapping[str, np.ndarray], name: str, default: float) -> float:
    """What leaves no trace in a shape: the scalar `size/<name>`, alone or below a case, else `default`."""
    stored = (value for key, value in arrays.items() if f"/{key}".endswith(f"/size/{name}"))
    return float(next(stored, default))


def in_order(names: Iterable[str]) -> list[str]:
    """Names sorted with their numbers as numbers: s2 before s10."""
    return sorted(names, key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)])


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
