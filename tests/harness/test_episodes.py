import base64
import zlib

import numpy as np
import pytest

from harness.episodes import LARGEST, PLAYED, checksum, pack, taken, unpack


@pytest.mark.parametrize(
    "actions, expected",
    [
        ([0, 3, 17, 3], np.array([0, 3, 17, 3], np.uint8)),
        ([0, 300], np.array([0, 300], np.uint16)),
        ([[0.5, -1.0], [0.1, 0.2]], np.array([[0.5, -1.0], [0.1, 0.2]], np.float32)),
    ],
)
def test_actions_come_back_as_they_were(actions, expected):
    text = pack(actions)
    assert not set(text) & set(',"\n')  # one field of a CSV, without quotes
    assert unpack(text).dtype == expected.dtype and np.array_equal(unpack(text), expected)


def test_float32_actions_keep_every_bit():
    actions = np.random.default_rng(0).standard_normal((50, 6)).astype(np.float32)
    assert np.array_equal(unpack(pack([action.tolist() for action in actions])), actions)


def test_a_hundred_long_episodes_of_random_actions_take_less_than_a_megabyte():
    """All 18 actions at random are the hardest to compress; 1,500 steps are the mean of long games."""
    generator = np.random.default_rng(0)
    assert 100 * len(pack(generator.integers(18, size=1500).tolist())) < 1e6


def hostile() -> list[str]:
    bomb = zlib.compress(bytes(LARGEST + 1))
    pickled = zlib.compress(b"\x80\x04.")
    return ["", "a b", "~~~~", *(base64.b85encode(content).decode() for content in (b"x", bomb, pickled))]


@pytest.mark.parametrize("text", hostile())
def test_anything_else_is_refused(text):
    with pytest.raises(ValueError, match="the actions are damaged"):
        unpack(text)


def test_what_was_played_is_taken_out_of_the_rows():
    rows = [{"episode": 0, "score": 1.0, PLAYED: {"environment_seed": 5, "actions": pack([1])}}]
    (stored,) = taken(20, rows)
    assert rows == [{"episode": 0, "score": 1.0}]
    assert {name: stored[name] for name in ("agent_steps", "episode", "environment_seed")} == {
        "agent_steps": 20, "episode": 0, "environment_seed": 5,
    }  # fmt: skip
    assert stored["sha256"] == checksum({name: str(value) for name, value in stored.items()})  # also as read back
    for name, other in (("actions", pack([0])), ("environment_seed", 6), ("episode", 1), ("agent_steps", 21)):
        assert checksum(stored | {name: other}) != stored["sha256"]
