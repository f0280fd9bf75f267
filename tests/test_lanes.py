"""The lists of slow and of long tests in conftest.py against the tests that there are."""

import re

from tests.conftest import LONGEST, ROOT, SLOW, longest_first

FILES = sorted((ROOT / "tests").rglob("test_*.py"))


class Item:
    def __init__(self, name: str):
        self.originalname = name


def test_every_name_is_that_of_a_file_or_a_test():
    tests = {name for path in FILES for name in re.findall(r"^def (test_\w+)\(", path.read_text(), flags=re.M)}
    assert set(LONGEST) <= tests
    assert tests | {path.stem for path in FILES} >= SLOW


def test_every_worker_begins_with_a_long_test_and_none_is_lost():
    items = [Item(name) for name in ("a", "b", *LONGEST[::-1], "c", "d", "e", "f")]
    ordered = longest_first(items, workers=3)
    assert [ordered[first].originalname for first in (0, 3, 6)] == LONGEST
    assert [item.originalname for item in ordered if item.originalname not in LONGEST] == list("abcdef")
    assert [longest_first(items[:1], 4), longest_first([], 2)] == [items[:1], []]
