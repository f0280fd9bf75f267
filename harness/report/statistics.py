"""Aggregates over runs and tasks with intervals, by rliable: stratified bootstrap, percentiles, 95 %.

Scores are normalised ones, a list for each task with one score for each run. A resample draws runs anew within every
task; the tasks stay. Every task weighs the same, whatever its number of runs. Equal arguments give equal intervals.

rliable, arch and pandas take seconds to import, so the functions that need them do it.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache

import numpy as np

Interval = tuple[float, float, float]  # point, low, high; low and high are NaN where no task has a second run
ByTask = Mapping[str, Sequence[float]]  # task -> one normalised score for each run
Paired = Mapping[str, Mapping[int, float]]  # task -> seed -> normalised score

METRICS = {"iqm": "IQM", "median": "median", "mean": "mean", "optimality_gap": "optimality gap"}
REPEATS = 10_000  # 2 s of a core for 26 games x 10 seeds
SEED = 20221  # resampling seed; any number would do
MOST_ROWS = 2520  # rows of a matrix with repeated runs; holds one to ten runs in any mixture


def aggregate(scores: ByTask, repeats: int = REPEATS) -> dict[str, Interval]:
    """IQM and optimality gap over runs x tasks, median and mean of the task means.

    With different numbers of runs each run stands for its share of the task. Raises ValueError without scores and for
    a score that is not finite.
    """
    return dict(_aggregate(tuple(tuple(map(float, runs)) for runs in scores.values()), repeats))


@cache
def _aggregate(tasks: tuple[tuple[float, ...], ...], repeats: int) -> dict[str, Interval]:
    from rliable import metrics

    functions = (
        metrics.aggregate_iqm,
        metrics.aggregate_median,
        metrics.aggregate_mean,
        metrics.aggregate_optimality_gap,
    )
    blocks = _blocks([(runs,) for runs in tasks])
    rows = math.lcm(*map(len, blocks))
    if rows > MOST_ROWS:
        return dict(zip(METRICS, _intervals(blocks, _weighted, repeats), strict=True))

    def statistic(*blocks: np.ndarray) -> np.ndarray:
        matrix = np.concatenate([np.repeat(block, rows // len(block), axis=0) for block in blocks], axis=1)
        return np.array([function(matrix) for function in functions])

    return dict(zip(METRICS, _intervals(blocks, statistic, repeats), strict=True))


def _weighted(*blocks: np.ndarray) -> np.ndarray:
    """The aggregates with a weight for each run, where repeating runs until all tasks have as many takes too long."""
    values = np.concatenate([block.ravel() for block in blocks])
    weights = np.concatenate([np.full(block.size, 1 / len(block)) for block in blocks])
    weights /= weights.sum()
    order = np.argsort(values)
    ends = np.cumsum(weights[order])  # ranks in 0..1
    middle = np.clip(np.minimum(ends, 0.75) - np.maximum(ends - weights[order], 0.25), 0, None)
    means = np.concatenate([block.mean(0) for block in blocks])
    gap = 1 - weights @ np.minimum(values, 1)
    return np.array([2 * middle @ values[order], np.median(means), means.mean(), gap])


def too_narrow(runs: int) -> float:
    """Share by which a bootstrap interval of the mean of `runs` is too narrow: it takes their spread for the truth."""
    return 1 - math.sqrt(1 - 1 / runs)


def iqm(values: Sequence[float]) -> float:
    """Mean of the middle half, as rliable takes it: of game means this is another number than of runs."""
    from rliable import metrics

    return float(metrics.aggregate_iqm(np.asarray(values, float)))


def optimality_gap(values: Sequence[float]) -> float:
    """Mean distance of `values` from 1, where values above 1 count as 1."""
    return float(1 - np.minimum(values, 1).mean())


def performance_profile(
    scores: ByTask, thresholds: Sequence[float], repeats: int = REPEATS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Share of runs x tasks above each threshold: points, lows, highs, each [thresholds]. Raises as `aggregate`."""
    thresholds = np.asarray(thresholds, float)

    def statistic(*blocks: np.ndarray) -> np.ndarray:
        shares = [(block[..., None] > thresholds).mean(0) for block in blocks]  # [tasks, thresholds]
        return np.concatenate(shares).mean(0)

    return tuple(np.array(_intervals(_blocks([(runs,) for runs in scores.values()]), statistic, repeats)).T)


def mean_curve(
    scores: Mapping[str, Sequence[Sequence[float]]], repeats: int = REPEATS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over runs, then over tasks, at every step: points, lows, highs, each [steps].

    scores: task -> a list [steps] for each run. A resample draws whole runs. Raises as `aggregate`.
    """
    blocks = _blocks([(runs,) for runs in scores.values()])  # [runs, tasks, steps]
    return tuple(np.array(_intervals(blocks, _mean_of_tasks, repeats)).T)


def _mean_of_tasks(*blocks: np.ndarray) -> np.ndarray:
    return np.concatenate([block.mean(0) for block in blocks]).mean(0)


def probability_of_improvement(first: ByTask, second: ByTask, repeats: int = REPEATS) -> Interval:
    """Probability that a run of `first` beats a run of `second` on a task that both have; a tie counts half.

    Without a task where both have a second run there is no interval. Raises ValueError without a common task, and as
    `aggregate`.
    """
    tasks = [(first[task], second[task]) for task in first if task in second]

    def statistic(*blocks: np.ndarray) -> np.ndarray:
        shares = []
        for ours, theirs in zip(blocks[::2], blocks[1::2], strict=True):
            ours = ours[:, None]  # [runs, 1, tasks]
            shares.append(((ours > theirs) + 0.5 * (ours == theirs)).mean((0, 1)))
        return np.concatenate(shares).mean(keepdims=True)

    point, *interval = _intervals(_blocks(tasks), statistic, repeats)[0]
    known = any(min(map(len, lists)) > 1 for lists in tasks)
    return (point, *(interval if known else (math.nan, math.nan)))


def paired_differences(first: Paired, second: Paired, repeats: int = REPEATS) -> tuple[Interval, dict[str, Interval]]:
    """`first` minus `second` with the same seed: the mean over tasks, and each task's; a resample draws pairs.

    What has no partner does not count: `pairs` names those that have. Raises ValueError without a pair.
    """
    common = pairs(first, second)
    tasks = sorted(common, key=lambda task: len(common[task]))  # the order that _blocks leaves as it is
    blocks = _blocks([([first[task][seed] - second[task][seed] for seed in common[task]],) for task in tasks])

    def statistic(*blocks: np.ndarray) -> np.ndarray:
        means = np.concatenate([block.mean(0) for block in blocks])
        return np.append(means, means.mean())

    *by_task, overall = _intervals(blocks, statistic, repeats)
    found = {
        task: interval if len(common[task]) > 1 else (interval[0], math.nan, math.nan)
        for task, interval in zip(tasks, by_task, strict=True)
    }
    return overall, {task: found[task] for task in common}


def pairs(first: Paired, second: Paired) -> dict[str, list[int]]:
    """The seeds that both have, by task; tasks without any are left out."""
    common = {task: sorted(first[task].keys() & second[task].keys()) for task in first if task in second}
    return {task: seeds for task, seeds in common.items() if seeds}


def _blocks(tasks: Sequence[tuple[Sequence[float], ...]]) -> list[np.ndarray]:
    """Scores as arrays [runs, tasks, ...], tasks with equal numbers of runs together.

    Where a task has several lists, as many arrays follow one another. Raises ValueError for scores that are missing.
    """
    if not tasks or not all(len(runs) for lists in tasks for runs in lists):
        raise ValueError("there is a task without a score" if tasks else "there are no tasks with scores")
    by_size: dict[tuple[int, ...], list] = {}
    for lists in tasks:
        by_size.setdefault(tuple(map(len, lists)), []).append(lists)
    columns = [column for group in by_size.values() for column in zip(*group, strict=True)]
    blocks = [np.array(column, float).swapaxes(0, 1) for column in columns]
    if not all(np.isfinite(block).all() for block in blocks):
        raise ValueError("there is a score that is not finite")
    return blocks


def _intervals(blocks: list[np.ndarray], statistic: Callable[..., np.ndarray], repeats: int) -> list[Interval]:
    """`statistic` of the blocks, each of its entries with an interval; every block is resampled on its own."""
    from rliable.library import get_interval_estimates

    if all(len(block) == 1 for block in blocks):
        return [(float(point), math.nan, math.nan) for point in statistic(*blocks)]
    with _seeded():
        points, bounds = get_interval_estimates({"": blocks}, statistic, reps=repeats)
    return [(float(point), float(low), float(high)) for point, low, high in zip(points[""], *bounds[""], strict=True)]


@contextmanager
def _seeded() -> Iterator[None]:
    """rliable draws from numpy's global state whatever random state it is given: fixes it, and restores it."""
    state = np.random.get_state()
    np.random.seed(SEED)
    try:
        yield
    finally:
        np.random.set_state(state)
