"""Words for what sets a run apart from the base of its method."""

from functools import cache
from typing import Any

import yaml

from harness.files import CONFIGS

MOST = 3  # changes of a label
NAME = "experiment"  # the key of a change that only the experiment's name tells


@cache
def _words() -> dict[str, str]:
    return yaml.safe_load((CONFIGS / "words.yaml").read_text())


def words(key: str, value: Any) -> str:
    """A setting in the words of configs/words.yaml, or of its key: "mask ratio 0.3", "no projector"."""
    if key == NAME:
        return value.replace("_", " ")
    if isinstance(value, bool):
        return quantity(key) if value else f"no {quantity(key)}"
    return f"{quantity(key)} {text(value)}"


def quantity(key: str) -> str:
    """Name of a key: its last part, or the last two where the last is a single word."""
    *sections, last = key.split(".")
    name = last if "_" in last or len(sections) < 2 else f"{sections[-1]} {last}"
    return _words().get(key, name.replace("_", " "))


def text(value: Any) -> str:
    if is_number(value):
        return f"{value:,}" if isinstance(value, int) else f"{value:g}"
    return " ".join(map(text, value)) if isinstance(value, tuple) else str(value)


def in_words(changes: tuple[tuple[str, Any], ...]) -> list[str]:
    shown = [words(*change) for change in changes[:MOST]]
    return shown if len(changes) <= MOST else [*shown, f"{len(changes) - MOST} more changes"]


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def by_size(change: tuple[str, Any]) -> tuple:
    """Sorts changes by key, and values of a key by their size."""
    key, value = change
    return (key, 0, value, "") if is_number(value) else (key, 1, 0, str(value))


def plural(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
