"""One compared quantity of a reference file, and how a list of them is judged."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

DATA = Path(__file__).parent / "data"
Arrays = Mapping[str, np.ndarray]


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


def is_setting(key: str) -> bool:
    """Says if a key names a size that leaves no trace in a shape: it is neither a value to compare nor a case."""
    return "/size/" in f"/{key}"


def setting(arrays: Arrays, name: str, default: float | None = None, case: str = "") -> float | None:
    """A number that leaves no trace in a shape: `size/<name>` of the case, of the file, or below any other case.

    Where the file has none, a plain scalar `<name>`, of the case or of the file, and at last `default`.
    """
    below_cases = (key for key in arrays if f"/{key}".endswith(f"/size/{name}"))
    for key in (f"{case}size/{name}", f"size/{name}", *below_cases, f"{case}{name}", name):
        if key in arrays and arrays[key].ndim == 0:
            return float(arrays[key])
    return default


def cases(arrays: Arrays, *names: str) -> list[str]:
    """Prefixes below which the arrays `names` are: "main/" of "main/loss", and "" of "loss"."""
    last = names[-1]
    prefixes = [key.removesuffix(last) for key in arrays if key.endswith(last) and not is_setting(key)]
    own = [prefix for prefix in prefixes if not prefix or prefix[-1] in "/._"]
    return in_order(prefix for prefix in own if all(f"{prefix}{name}" in arrays for name in names))


def below(arrays: Arrays, case: str) -> dict[str, np.ndarray]:
    """The arrays of a case by their names in it."""
    return {key.removeprefix(case): value for key, value in arrays.items() if key.startswith(case)}


def by_case(arrays: Arrays, *names: str) -> dict[str, dict[str, np.ndarray]]:
    """The arrays of each case that has `names`, by their names in it, and beside them those of no case.

    Where the file itself is such a case, the others share its settings alone.
    """
    found = cases(arrays, *names)
    others = tuple(case for case in found if case)
    shared = {key: value for key, value in arrays.items() if not key.startswith(others)}
    settings = {key: value for key, value in shared.items() if is_setting(key)} if "" in found else shared
    return {case: settings | below(arrays, case) if case else shared for case in found}


def named(case: str, checks: Iterable["Check"]) -> Iterator["Check"]:
    """The checks of a case, with its name before theirs."""
    return (replace(check, quantity=f"{case}{check.quantity}") for check in checks)


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
