"""Named parts of an update or an environment step, for whoever measures it; without a listener a span does nothing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

_listeners: list[Callable[[str], None]] = []
_open: list[str] = []


@contextmanager
def span(name: str) -> Iterator[None]:
    """Counts the work inside as part `name`, except the work of an inner span."""
    if not _listeners:
        yield
        return
    _open.append(name)
    _tell()
    try:
        yield
    finally:
        _open.pop()
        _tell()


@contextmanager
def listening(listener: Callable[[str], None]) -> Iterator[None]:
    """Calls `listener` at each border between two parts with the name of the one that begins, "" for none."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def _tell() -> None:
    for listener in _listeners:
        listener(_open[-1] if _open else "")
