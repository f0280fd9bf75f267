"""Windows of consecutive transitions against the DMControl reference file j.

The files hold where windows may start, for episodes of one length or of recorded ends, and how many windows of a
wrapped ring crossed its write position (`full`). Ours never do, and a batch is always full: neither is compared with
the recorded share and sizes, both are held to zero and to the size asked for. Of a ring that a file fills, recorded
starts whose window holds the newest step are left out, and ours whose window passes the last slot.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from auxiliaries.slot import Reads
from dmcontrol.replay import TransitionReplay
from tests.golden.check import Arrays, Check, below, cases, exact, load, relative, setting

FLAGS = set("done dones end ends last ended terminal terminated truncated".split())
LENGTHS = set("lengths lens".split())
DRAWS_PER_START = 200
DEVIATIONS = 6.0  # of a frequency from the uniform one


def replay_j(folder: Path) -> Iterator[Check]:
    for path in sorted(Path(folder).glob("j_*.npz")):
        data = load(path)
        for case in sorted(cases(data, "admissible_starts")):
            yield from _recorded_starts(path.name, case.rstrip("/"), data)
        for key in data:
            if wrapped := re.search(r"crossing_write_head_cap(\d+)$", key):
                yield from _wrapped(path.name, key, data, capacity=int(wrapped.group(1)))


def _recorded_starts(file: str, case: str, data: Arrays) -> Iterator[Check]:
    """The starts that a case records, and draws from them where the ring is not full."""
    own = below(data, f"{case}/" if case else "")
    expected, seq_len = own["admissible_starts"], _seq_len(case, data)
    ends = _ends(case, data)
    # Where the number of steps is not recorded: those of the script, or the fewest that complete the last window.
    fewest = len(_script(own)) or expected.max(initial=0) + seq_len + 1
    steps = int(setting(own, "n_transitions", fewest))
    capacity = int(setting(own, "capacity", max(steps, 1)))
    replay = _filled(capacity, _tiled(ends, steps), seq_len)
    starts = replay.starts.leaves.nonzero().flatten().numpy()
    if steps > capacity:
        newest = (steps - 1) % capacity
        expected = expected[(newest < expected) | (newest >= expected + seq_len)]
        starts = starts[starts + seq_len < capacity]
    yield exact(file, f"{case} admissible starts", starts, expected)
    if "batch_requested" in own and len(expected) > 0:
        batch_size = int(own["batch_requested"])
        reads = Reads("windows", seq_len, ("rewards",))
        batch = replay.windows(batch_size, torch.Generator().manual_seed(0), reads)
        yield exact(file, f"{case} batch", batch.rewards.shape, (seq_len, batch_size))
    if steps <= capacity:
        yield from _draws(file, case, replay, expected)


def _wrapped(file: str, key: str, data: Arrays, capacity: int) -> Iterator[Check]:
    """The starts of a full ring, with the write position at several slots, by the rule over step numbers."""
    case = key.rpartition("/")[0]
    seq_len = _seq_len(case, data)
    for steps in range(2 * capacity, 3 * capacity, capacity // 4 + 1):
        ends = _tiled(_ends(case, data), steps)
        starts = range(steps - capacity, steps - seq_len)
        in_one_episode = [start for start in starts if not ends[start : start + seq_len].any()]
        replay = _filled(capacity, ends, seq_len)
        slots = np.sort(np.array(in_one_episode, dtype=np.int64) % capacity)
        name = f"{case} capacity {capacity} after {steps} steps"
        yield exact(file, f"{name} admissible starts", replay.starts.leaves.nonzero().flatten(), slots)
        yield from _draws(file, name, replay, np.array(in_one_episode))


def _draws(file: str, name: str, replay: TransitionReplay, starts: np.ndarray) -> Iterator[Check]:
    """Windows hold consecutive steps, as they do where none crosses the write position, and begin uniformly."""
    if len(starts) == 0:
        return
    generator, reads = torch.Generator().manual_seed(0), Reads("windows", replay.window, ("rewards",))
    counts, crossing = np.zeros(replay.steps_stored), 0
    for _ in range(DRAWS_PER_START):
        steps = replay.windows(len(starts), generator, reads).rewards.numpy()  # [T, B]
        counts += np.bincount(steps[0].astype(np.int64), minlength=len(counts))
        crossing += np.count_nonzero((np.diff(steps, axis=0) != 1).any(axis=0))
    expected = np.zeros(len(counts))
    expected[starts] = DRAWS_PER_START
    yield exact(file, f"{name} windows across the write position", crossing, 0)
    yield exact(file, f"{name} drawn starts", counts > 0, expected > 0)
    yield relative(file, f"{name} frequencies", counts, expected, DEVIATIONS / DRAWS_PER_START**0.5)


def _filled(capacity: int, ends: np.ndarray, seq_len: int) -> TransitionReplay:
    """A replay after len(ends) steps, each rewarded with its own number, in truncated episodes with these ends."""
    observation, action = np.zeros((1, 1, 1), dtype=np.uint8), np.zeros(1, dtype=np.float32)
    # Frames enough even where all episodes are short.
    replay = TransitionReplay(
        capacity, seq_len, observation.shape, frame_stack=1, action_size=1, device="cpu", min_episode=1
    )
    for step, ended in enumerate(ends):
        replay.store(observation, action, float(step), False, bool(ended), observation, {})
    return replay


def _ends(case: str, data: Arrays) -> np.ndarray:
    """Ends of episodes, bool by step: of one episode of the case's length, or of its whole script.

    A case that has neither takes them from one that does.
    """
    others = sorted({key.rpartition("/")[0] for key in data} - {case})
    for name in (case, *others):
        own = below(data, f"{name}/" if name else "")
        length = setting({key: value for key, value in own.items() if "/" not in key}, "episode_len")
        ends = np.arange(1, int(length) + 1) == length if length is not None else _script(own)
        if len(ends):
            return ends
    raise ValueError(f"{case}: neither episode_len nor the ends of scripted episodes are recorded")


def _script(own: Arrays) -> np.ndarray:
    """Ends of scripted episodes, bool by step: from flags, episodes' lengths, or steps that are an episode's last."""
    flags = []
    for key, values in own.items():
        words, values = set(re.findall("[a-z]+", key.lower())), np.squeeze(values)
        if values.ndim != 1 or "/" in key or not words & {*FLAGS, *LENGTHS}:
            continue
        if words & LENGTHS and values.dtype != bool:
            return np.concatenate([np.arange(1, length + 1) == length for length in values.astype(int)])
        if np.isin(values, (0, 1)).all() and len(values) > 2:
            flags.append(values.astype(bool) ^ ("not" in words))
        else:
            last = np.zeros(int(setting(own, "n_transitions", values.max() + 1)), dtype=bool)
            last[values.astype(int)] = True
            return last
    return np.any(flags, axis=0) if flags else np.zeros(0, dtype=bool)


def _tiled(ends: np.ndarray, steps: int) -> np.ndarray:
    return np.resize(ends, steps)


def _seq_len(case: str, data: Arrays) -> int:
    """Steps of a window, of the case or else of any."""
    own = setting(below(data, f"{case}/" if case else ""), "T")
    if own is None:
        own = next(float(value) for key, value in data.items() if f"/{key}".endswith("/T"))
    return int(own)
