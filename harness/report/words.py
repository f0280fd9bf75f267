"""Words for what sets a run apart from the base of its method."""

import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import yaml

from harness.files import CONFIGS

MOST = 4  # changes of a label
NAME = "experiment"  # the key of a change that only the experiment's name tells
Change = tuple[str, Any]  # a key of the configuration or a group of files, and its value where it is not the base's


@cache
def _words() -> dict[str, str]:
    return yaml.safe_load((CONFIGS / "words.yaml").read_text())


def words(key: str, value: Any) -> str:
    """A setting in the words of configs/words.yaml, or of its key: "mask ratio 0.3", "no projector"."""
    if key == NAME or key in choice_groups():
        return _words().get(key, {}).get(value, value.replace("_", " "))
    if isinstance(value, bool):
        return quantity(key) if value else f"no {quantity(key)}"
    return valued(key, text(value))


def valued(key: str, value: str) -> str:
    """The name of a key with its value: "mask ratio 0.3", "2 updates a step"."""
    name = _name(key)
    return re.sub(r"^1 (\w+)s ", r"1 \1 ", name.format(value)) if "{}" in name else f"{name} {value}"


def quantity(key: str) -> str:
    """Name of a key without a value."""
    return _name(key).format("N")


def _name(key: str) -> str:
    """Its words, or its last part, or the last two where the last is a single word."""
    *sections, last = key.split(".")
    name = last if "_" in last or len(sections) < 2 else f"{sections[-1]} {last}"
    return _words().get(key, name.replace("_", " "))


@cache
def choice_groups() -> list[str]:
    """Groups of configuration files whose choices stand beside the method."""
    return [key for key, words in _words().items() if isinstance(words, dict)]


def choices(changes: Iterable[Change]) -> list[Change]:
    """The changes that are choices of such groups, in the groups' order."""
    found = [change for change in changes if change[0] in choice_groups()]
    return sorted(found, key=lambda change: choice_groups().index(change[0]))


def others(changes: Iterable[Change]) -> list[Change]:
    return [change for change in changes if change[0] not in choice_groups()]


def text(value: Any) -> str:
    if is_number(value):
        return f"{value:,}" if isinstance(value, int) else f"{value:g}"
    return " ".join(map(text, value)) if isinstance(value, tuple) else str(value)


def in_words(changes: Sequence[Change]) -> list[str]:
    shown = [words(*change) for change in changes[:MOST]]
    return shown if len(changes) <= MOST else [*shown, f"{len(changes) - MOST} more changes"]


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def by_size(change: Change) -> tuple:
    """Sorts changes by key, and values of a key by their size."""
    key, value = change
    return (key, 0, value, "") if is_number(value) else (key, 1, 0, str(value))


def plural(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
