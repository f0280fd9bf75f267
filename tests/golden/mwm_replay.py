"""Replays l of a folder of MWM reference files: pictures of chunks from streams of windows, exactly."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mwm.replay import Episode, Piece, Stream, WindowRule
from tests.golden.check import Arrays, Check, exact, load

SETTINGS = "_minlen_maxlen_ends_chunk"
DRAWS = 3  # of a window: episode, shortening, start
FAR = 5.0  # standard deviations of chi-square, beyond which frequencies are of another distribution


def replay_l(folder: Path) -> Iterator[Check]:
    """Chunks with their first flags, the draws that they ask for, and frequencies of starts."""
    for path in sorted(folder.glob("l_*.npz")):
        arrays = load(path)
        for key in arrays:
            if key.endswith(SETTINGS):
                yield from case_checks(path.name, key.removesuffix(SETTINGS), arrays)


def case_checks(file: str, case: str, arrays: Arrays) -> Iterator[Check]:
    shortest, longest, ends, chunk = arrays[f"{case}{SETTINGS}"].tolist()
    rule = WindowRule(shortest, longest, bool(ends))
    # Lengths are in steps; a picture more is shown, and episodes too short for a window are dropped.
    episodes = [Episode(number, 0, int(length) + 1) for number, length in enumerate(arrays[f"{case}_lengths"])]
    recorded = arrays[f"{case}_draw_upper_value"].reshape(-1, 2).tolist()
    asked = []

    def draw(bound: int) -> int:
        asked.append(bound)
        return recorded[len(asked) - 1][1]

    stream = Stream(rule, draw)
    ids, first = [], []
    for _ in arrays[f"{case}_chunk_ids"]:
        pieces = stream.take(chunk, episodes)
        ids.append(np.concatenate([identifiers(piece) for piece in pieces]))
        first.append(np.concatenate([piece.first & (np.arange(piece.length) == 0) for piece in pieces]))
    yield exact(file, f"{case}_chunk_ids", ids, arrays[f"{case}_chunk_ids"])
    yield exact(file, f"{case}_chunk_first", first, arrays[f"{case}_chunk_first"])
    yield exact(file, f"{case}_draw_upper", asked, [bound for bound, _ in recorded])
    if f"{case}_start_ids" in arrays:
        yield frequency_check(file, case, arrays, rule, episodes)


def identifiers(piece: Piece) -> np.ndarray:
    return 1000 * piece.episode.number + piece.start + np.arange(piece.length)


def frequency_check(file: str, case: str, arrays: Arrays, rule: WindowRule, episodes: list[Episode]) -> Check:
    """Distance of the recorded frequencies from the rule's probabilities, in deviations of chi-square."""
    expected = np.concatenate([start_shares(rule, episode) for episode in episodes]) / len(episodes)
    ids = np.concatenate([1000 * episode.number + np.arange(episode.pictures) for episode in episodes])
    counts = dict(zip(arrays[f"{case}_start_ids"].tolist(), arrays[f"{case}_start_counts_of_4000"], strict=True))
    total = sum(counts.values())
    seen = np.array([counts.pop(int(each), 0) for each in ids])
    possible = expected > 0
    if counts or seen[~possible].any():
        return Check(file, f"{case}: starts that the rule does not give", float("inf"), 0.0)
    mean = total * expected[possible]
    degrees = possible.sum() - 1
    # The variance of each term has a part 1 / mean, which counts where few are expected.
    deviation = np.sqrt(2 * degrees + (1 / mean).sum())
    distance = abs(((seen[possible] - mean) ** 2 / mean).sum() - degrees) / deviation
    return Check(file, f"{case}_start_counts_of_{total}", float(distance), FAR)


def start_shares(rule: WindowRule, episode: Episode) -> np.ndarray:
    """Probability of each of an episode's pictures to begin a window, by trying every draw."""
    shares = np.zeros(episode.pictures)
    for shortening in range(rule.shortest):
        bounds = []

        def draw(bound: int, bounds=bounds, shortening=shortening) -> int:
            bounds.append(bound)
            return shortening if len(bounds) == 1 else 0

        rule.place(episode.pictures, draw)
        for value in range(bounds[1]):
            draws = iter((shortening, value))
            start, _ = rule.place(episode.pictures, lambda bound, draws=draws: next(draws))
            shares[start] += 1 / (rule.shortest * bounds[1])
    return shares
