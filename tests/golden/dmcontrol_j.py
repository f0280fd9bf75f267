"""Windows of consecutive transitions against the DMControl reference file j.

The files hold where windows may start, for whole episodes of one length (`partial`, `short`), and how many windows of a
wrapped ring crossed its write position (`full`). Ours never do, and a batch is always full: neither is compared with
the recorded share and sizes, both are held to zero and to the size asked for.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from dmcontrol.replay import TransitionReplay
from tests.golden.check import Check, exact, load, relative

DRAWS_PER_START = 200
DEVIATIONS = 6.0  # of a frequency from the uniform one


def replay_j(folder: Path) -> Iterator[Check]:
    for path in sorted(Path(folder).glob("j_*.npz")):
        data = load(path)
        for case in sorted(key.split("/")[0] for key in data if key.endswith("/admissible_starts")):
            yield from _recorded_starts(path.name, case, data)
        for key in data:
            if wrapped := re.search(r"crossing_write_head_cap(\d+)$", key):
                yield from _wrapped(path.name, key, data, capacity=int(wrapped.group(1)))


def _recorded_starts(file: str, case: str, data: dict[str, np.ndarray]) -> Iterator[Check]:
    """The starts of a ring that is not full, and draws from them."""
    expected, seq_len = data[f"{case}/admissible_starts"], _seq_len(case, data)
    # Where the number of steps is not recorded, the fewest that complete the last window.
    steps = int(data.get(f"{case}/n_transitions", expected.max(initial=0) + seq_len + 1))
    replay = _filled(max(steps, 1), steps, int(data[f"{case}/episode_len"]), seq_len)
    yield exact(file, f"{case} admissible starts", replay.starts.leaves.nonzero().flatten(), expected)
    if f"{case}/batch_requested" in data and len(expected) > 0:
        batch_size = int(data[f"{case}/batch_requested"])
        batch = replay.windows(batch_size, torch.Generator().manual_seed(0), ("rewards",))
        yield exact(file, f"{case} batch", batch.rewards.shape, (seq_len, batch_size))
    yield from _draws(file, case, replay, expected)


def _wrapped(file: str, key: str, data: dict[str, np.ndarray], capacity: int) -> Iterator[Check]:
    """The starts of a full ring, with the write position at several places, by the rule over step numbers."""
    case = key.split("/")[0]
    episode_len, seq_len = int(_recorded("episode_len", case, data)), _seq_len(case, data)
    for steps in range(2 * capacity, 3 * capacity, capacity // 4 + 1):
        starts = range(steps - capacity, steps - seq_len)
        in_one_episode = [start for start in starts if start % episode_len + seq_len < episode_len]
        replay = _filled(capacity, steps, episode_len, seq_len)
        slots = np.sort(np.array(in_one_episode, dtype=np.int64) % capacity)
        name = f"{case} capacity {capacity} after {steps} steps"
        yield exact(file, f"{name} admissible starts", replay.starts.leaves.nonzero().flatten(), slots)
        yield from _draws(file, name, replay, np.array(in_one_episode))


def _draws(file: str, name: str, replay: TransitionReplay, starts: np.ndarray) -> Iterator[Check]:
    """Windows hold consecutive steps, as they do where none crosses the write position, and begin uniformly."""
    if len(starts) == 0:
        return
    generator = torch.Generator().manual_seed(0)
    counts, crossing = np.zeros(replay.steps_stored), 0
    for _ in range(DRAWS_PER_START):
        steps = replay.windows(len(starts), generator, ("rewards",)).rewards.numpy()  # [T, B]
        counts += np.bincount(steps[0].astype(np.int64), minlength=len(counts))
        crossing += np.count_nonzero((np.diff(steps, axis=0) != 1).any(axis=0))
    expected = np.zeros(len(counts))
    expected[starts] = DRAWS_PER_START
    yield exact(file, f"{name} windows across the write position", crossing, 0)
    yield exact(file, f"{name} drawn starts", counts > 0, expected > 0)
    yield relative(file, f"{name} frequencies", counts, expected, DEVIATIONS / DRAWS_PER_START**0.5)


def _filled(capacity: int, steps: int, episode_len: int, seq_len: int) -> TransitionReplay:
    """A replay after `steps` steps, each rewarded with its own number, in truncated episodes of one length."""
    observation, action = np.zeros((1, 1, 1), dtype=np.uint8), np.zeros(1, dtype=np.float32)
    replay = TransitionReplay(
        capacity, seq_len, observation.shape, frame_stack=1, action_size=1, device="cpu", min_episode=episode_len
    )
    for step in range(steps):
        ended = (step + 1) % episode_len == 0
        replay.store(observation, action, float(step), False, ended, observation, {})
    return replay


def _seq_len(case: str, data: dict[str, np.ndarray]) -> int:
    return int(_recorded("T", case, data))


def _recorded(name: str, case: str, data: dict[str, np.ndarray]) -> np.ndarray:
    """A size of this case; where it has none of its own, the one that `partial` was recorded with."""
    return data[f"{case}/{name}"] if f"{case}/{name}" in data else data[f"partial/{name}"]
