"""Messages for people, each in one line."""

import difflib
import sys
from collections import Counter
from collections.abc import Iterable

from harness.exit_codes import REFUSED


def refuse(error: Exception) -> int:
    complain(str(error))
    return REFUSED


def complain(message: str) -> None:
    print(f"error: {in_one_line(message)}", file=sys.stderr)


def advice(name: str, names: Iterable[str], otherwise: str = "") -> str:
    """The nearest of `names`; where none is near `otherwise`, or all of them."""
    close = nearest(name, names)
    return f"did you mean {close}?" if close else otherwise or f"choose one of {', '.join(names)}"


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The most similar of `names`, also by their last parts: `mask_ratio` is near mlr.mask.ratio. Case says nothing."""
    endings: dict[str, str] = {}
    for full in names:
        parts = full.split(".")
        for start in range(len(parts)):
            endings.setdefault(".".join(parts[start:]).lower(), full)
    close = difflib.get_close_matches(name.lower(), endings, n=1)
    return endings[close[0]] if close else None


def repeated(values: Iterable[str]) -> str | None:
    """The first of the values that comes more than once."""
    return next((value for value, count in Counter(values).items() if count > 1), None)


def shorten(text: str, length: int = 60) -> str:
    return text if len(text) <= length else f"{text[:length]}..."


def in_one_line(text: str) -> str:
    return " ".join(text.split())
