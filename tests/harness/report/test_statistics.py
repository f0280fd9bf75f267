"""Against rliable's own functions, and against every resample that there is."""

import itertools
import math

import numpy as np
import pytest

from harness.report import statistics
from harness.report.statistics import (
    MOST_ROWS,
    SEED,
    aggregate,
    iqm,
    mean_curve,
    optimality_gap,
    paired_differences,
    pairs,
    performance_profile,
    probability_of_improvement,
)

REPEATS = 2000


@pytest.fixture(autouse=True)
def no_memory():
    """Each test computes anew what `aggregate` remembers."""
    statistics._aggregate.cache_clear()


def random_scores(runs, tasks=4, seed=0):
    """runs: how many, for all tasks or for each."""
    generator = np.random.default_rng(seed)
    counts = [runs] * tasks if isinstance(runs, int) else runs
    return {f"task{i}": generator.normal(0.6, 0.4, count).tolist() for i, count in enumerate(counts)}


def matrix(scores):
    return np.array(list(scores.values())).T


def every_resample(scores):
    """All equally likely outcomes of drawing each task's runs anew, with replacement."""
    draws = [list(itertools.product(runs, repeat=len(runs))) for runs in scores.values()]
    return itertools.product(*draws)


def assert_interval(interval, outcomes, point):
    """The sampled percentiles lie at, or a sampling error from, those of all `outcomes`."""
    assert interval[0] == pytest.approx(point)
    low = np.quantile(outcomes, [0.015, 0.035], method="inverted_cdf")
    high = np.quantile(outcomes, [0.965, 0.985], method="inverted_cdf")
    assert low[0] - 1e-9 <= interval[1] <= low[1] + 1e-9
    assert high[0] - 1e-9 <= interval[2] <= high[1] + 1e-9
    assert interval[1] < interval[0] < interval[2]


def weighted_iqm(tasks):
    """Mean of the middle half of the weight, where every task weighs 1: an integral of the quantile function."""
    points = sorted((score, 1 / len(runs) / len(tasks)) for runs in tasks for score in runs)
    total, start = 0.0, 0.0
    for score, weight in points:
        total += score * max(0.0, min(start + weight, 0.75) - max(start, 0.25))
        start += weight
    return total / 0.5


@pytest.mark.parametrize("runs", [[4], [2, 4], [3, 2]])
def test_intervals_agree_with_all_resamples(runs):
    scores = random_scores(runs)
    outcomes = list(every_resample(scores))
    intervals = aggregate(scores, REPEATS)
    means = [[np.mean(runs) for runs in outcome] for outcome in outcomes]
    gaps = [np.mean([np.mean([max(0, 1 - run) for run in runs]) for runs in outcome]) for outcome in outcomes]
    original = list(scores.values())
    original_means = [np.mean(runs) for runs in original]
    original_gap = np.mean([np.mean([max(0, 1 - run) for run in runs]) for runs in original])
    assert_interval(intervals["mean"], np.mean(means, 1), np.mean(original_means))
    assert_interval(intervals["median"], np.median(means, 1), np.median(original_means))
    assert_interval(intervals["optimality_gap"], gaps, original_gap)
    assert_interval(intervals["iqm"], [weighted_iqm(outcome) for outcome in outcomes], weighted_iqm(original))


def test_with_as_many_runs_everywhere_the_numbers_are_rliables_own():
    from rliable import library, metrics

    scores = random_scores(5)
    functions = {
        "iqm": metrics.aggregate_iqm,
        "median": metrics.aggregate_median,
        "mean": metrics.aggregate_mean,
        "optimality_gap": metrics.aggregate_optimality_gap,
    }
    np.random.seed(SEED)
    points, bounds = library.get_interval_estimates(
        {"x": matrix(scores)}, lambda x: np.array([function(x) for function in functions.values()]), reps=200
    )
    intervals = aggregate(scores, 200)
    for i, name in enumerate(functions):
        assert intervals[name] == pytest.approx((points["x"][i], *bounds["x"][:, i]), rel=1e-12)


def test_two_calls_are_equal_and_numpys_global_state_is_untouched():
    scores, other = random_scores([2, 3, 3, 4]), random_scores(3, seed=1)
    paired = {task: dict(enumerate(runs)) for task, runs in other.items()}
    shifted = {task: {seed: run - seed * 0.1 for seed, run in runs.items()} for task, runs in paired.items()}

    def everything():
        statistics._aggregate.cache_clear()
        profile = performance_profile(scores, [0.2, 0.6], 50)
        return (
            aggregate(scores, 50),
            np.array(profile).tolist(),
            probability_of_improvement(scores, other, 50),
            paired_differences(paired, shifted, 50),
        )

    np.random.seed(1)
    first = everything()
    drawn = np.random.random()
    np.random.seed(2)
    np.random.random(100)
    assert everything() == first
    np.random.seed(1)
    assert np.random.random() == drawn


def test_the_global_state_is_restored_after_an_error():
    np.random.seed(1)
    expected = np.random.random()
    np.random.seed(1)
    with pytest.raises(RuntimeError), statistics._seeded():
        np.random.random()
        raise RuntimeError
    assert np.random.random() == expected


def test_every_task_weighs_the_same():
    scores = {"a": [0.0, 1.0], "b": [2.0, 2.0, 2.0, 2.0], "c": [0.1, 0.2, 0.3]}
    points = {name: interval[0] for name, interval in aggregate(scores, 10).items()}
    assert points["mean"] == pytest.approx((0.5 + 2.0 + 0.2) / 3)
    assert points["median"] == pytest.approx(0.5)
    assert points["optimality_gap"] == pytest.approx((0.5 + 0.0 + 0.8) / 3)


def test_iqm_over_runs_is_not_iqm_of_means():
    scores = {"a": [0.0, 0.9], "b": [0.2, 0.4], "c": [0.1, 3.0], "d": [0.5, 0.6]}
    over_runs = aggregate(scores, 10)["iqm"][0]
    of_means = iqm([np.mean(runs) for runs in scores.values()])
    assert over_runs == pytest.approx((0.2 + 0.4 + 0.5 + 0.6) / 4)
    assert of_means == pytest.approx((0.45 + 0.55) / 2)


def test_optimality_gap_of_means():
    assert optimality_gap([0.25, 3.0, -0.25]) == pytest.approx((0.75 + 0 + 1.25) / 3)


def test_one_run_of_each_task_has_no_interval():
    point, low, high = aggregate({"a": [0.5], "b": [0.7]}, 10)["mean"]
    assert point == pytest.approx(0.6) and math.isnan(low) and math.isnan(high)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({}, "no tasks"),
        ({"a": [1.0], "b": []}, "a task without a score"),
        ({"a": [1.0, math.nan]}, "not finite"),
    ],
)
def test_what_cannot_be_aggregated_is_refused(scores, message):
    with pytest.raises(ValueError, match=message):
        aggregate(scores, 10)


def test_one_to_ten_runs_can_be_mixed():
    assert math.lcm(*range(1, 11)) == MOST_ROWS
    assert aggregate(random_scores(range(1, 11)), 3)


def test_numbers_of_runs_that_are_too_far_apart_get_weights(monkeypatch):
    """Agreement with repeated runs, but for the whole rows that rliable cuts off."""
    scores = random_scores([52, 56, 60, 13])
    assert math.lcm(52, 56, 60, 13) > MOST_ROWS
    tasks = list(scores.values())
    found = {name: interval[0] for name, interval in aggregate(scores, 3).items()}
    assert found["iqm"] == pytest.approx(weighted_iqm(tasks))
    assert found["mean"] == pytest.approx(np.mean([np.mean(runs) for runs in tasks]))
    assert found["median"] == pytest.approx(np.median([np.mean(runs) for runs in tasks]))
    gaps = [np.mean([1 - min(score, 1) for score in runs]) for runs in tasks]
    assert found["optimality_gap"] == pytest.approx(np.mean(gaps))
    few = random_scores([3, 4, 2], 3)
    repeated = aggregate(few, 500)
    monkeypatch.setattr(statistics, "MOST_ROWS", 1)
    statistics._aggregate.cache_clear()
    for name, interval in aggregate(few, 500).items():
        assert interval == pytest.approx(repeated[name], abs=1e-6 if name != "iqm" else 0.02)


@pytest.mark.parametrize("runs", [3, 5])
def test_how_much_too_narrow_an_interval_of_few_runs_is(runs):
    """Spread of the means of all resamples, against the spread of the mean of fresh runs."""
    generator = np.random.default_rng(0)
    samples = generator.normal(size=(20_000, runs))
    resampled = np.sqrt(samples.var(1).mean() / runs)
    assert statistics.too_narrow(runs) == pytest.approx(1 - resampled / np.sqrt(1 / runs), abs=0.01)
    assert round(100 * statistics.too_narrow(runs)) == {3: 18, 5: 11}[runs]


def test_probability_of_improvement():
    from rliable import metrics

    first, second = random_scores(4), random_scores(6, seed=1)
    first["task1"][:2] = second["task1"][:2]  # ties
    first["task2"] = [*first["task2"], *first["task2"][:2]]
    second["task2"] = first["task2"]  # equal altogether
    by_task = [
        metrics.probability_of_improvement(np.array([first[task]]).T, np.array([second[task]]).T) for task in first
    ]
    point, low, high = probability_of_improvement(first, second, REPEATS)
    assert point == pytest.approx(np.mean(by_task))
    assert 0 < low < point < high < 1
    assert probability_of_improvement(second, first, 10)[0] == pytest.approx(1 - point)
    assert probability_of_improvement({"a": [2.0, 3.0], "only": [9.0]}, {"a": [1.0], "other": [0.0]}, 10)[0] == 1


def test_interval_of_the_probability_agrees_with_all_resamples():
    first, second = [0.1, 0.5, 0.9], [0.3, 0.4, 0.8]
    outcomes = [
        np.mean([x > y for x in drawn for y in against])
        for drawn in itertools.product(first, repeat=3)
        for against in itertools.product(second, repeat=3)
    ]
    assert_interval(probability_of_improvement({"a": first}, {"a": second}, REPEATS), outcomes, 5 / 9)


def test_single_runs_of_one_side_leave_the_probability_without_interval():
    point, *interval = probability_of_improvement({"a": [1.0, 2.0, 4.0]}, {"a": [3.0]}, 10)
    assert point == pytest.approx(1 / 3) and np.isnan(interval).all()


def test_a_mean_curve_is_the_aggregate_at_each_step():
    runs = {"a": [[0.1, 0.4], [0.3, 0.8], [0.2, 0.3]], "b": [[0.5, 0.6], [0.9, 1.0]]}
    points, lows, highs = mean_curve(runs, REPEATS)
    for step in (0, 1):
        expected = aggregate({task: [run[step] for run in of_task] for task, of_task in runs.items()}, REPEATS)["mean"]
        assert points[step] == pytest.approx(expected[0])
        assert (lows[step], highs[step]) == pytest.approx(expected[1:], abs=0.02)  # of other draws
    assert np.isnan(mean_curve({"a": [[0.1, 0.4]]}, 10)[1]).all()


def test_performance_profile():
    from rliable import library

    scores, thresholds = random_scores(3), np.linspace(-0.5, 1.5, 21)
    points, lows, highs = performance_profile(scores, thresholds, REPEATS)
    np.testing.assert_allclose(points, library.score_distributions(matrix(scores), thresholds))
    assert (lows <= points).all() and (points <= highs).all() and (np.diff(points) <= 0).all()
    outcomes = [
        np.mean([np.mean(np.array(runs) > 0.5) for runs in outcome])
        for outcome in every_resample({task: scores[task] for task in ("task0", "task1")})
    ]
    (point,), (low,), (high,) = performance_profile({task: scores[task] for task in ("task0", "task1")}, [0.5], REPEATS)
    assert_interval((point, low, high), outcomes, point)
    ragged = performance_profile({"a": [0.0, 1.0], "b": [1.0, 1.0, 0.0]}, [0.5], 10)[0]
    assert ragged == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_paired_differences():
    first = {"a": {1: 0.5, 2: 0.9, 3: 0.1}, "b": {1: 1.0, 4: 0.0}, "c": {1: 5.0}, "d": {7: 1.0}}
    second = {"a": {2: 0.4, 3: 0.3, 5: 9.0}, "b": {1: 0.7, 4: 0.2}, "d": {1: 1.0}, "e": {1: 1.0}}
    by_hand = {"a": [0.9 - 0.4, 0.1 - 0.3], "b": [1.0 - 0.7, 0.0 - 0.2]}
    assert pairs(first, second) == {"a": [2, 3], "b": [1, 4]}
    overall, by_task = paired_differences(first, second, REPEATS)
    assert by_task["a"] == pytest.approx((0.15, -0.2, 0.5)) and by_task["b"] == pytest.approx((0.05, -0.2, 0.3))
    outcomes = [np.mean([np.mean(runs) for runs in outcome]) for outcome in every_resample(by_hand)]
    assert overall[0] == pytest.approx((0.15 + 0.05) / 2)
    assert overall[1:] == pytest.approx(np.quantile(outcomes, [0.025, 0.975], method="inverted_cdf"))


def test_pairs_are_narrower_than_runs_that_are_strangers():
    """The seeds differ much, the methods by the same little everywhere."""
    first = {"a": {seed: float(seed) for seed in range(6)}}
    second = {"a": {seed: seed - 0.5 for seed in range(6)}}
    assert paired_differences(first, second, 100)[0] == (0.5, 0.5, 0.5)


def test_single_pairs_have_no_interval():
    first = {"a": {1: 1.0, 2: 2.0}, "b": {1: 1.0}}
    second = {"b": {1: 0.5}, "a": {1: 0.0, 2: 0.0}}
    overall, by_task = paired_differences(first, second, 50)
    assert list(by_task) == ["a", "b"]
    assert by_task["a"] == (1.5, 1.0, 2.0)
    assert by_task["b"][0] == 0.5 and math.isnan(by_task["b"][1])
    assert overall == pytest.approx((1.0, 0.75, 1.25))
    with pytest.raises(ValueError, match="no tasks"):
        paired_differences({"a": {1: 1.0}}, {"a": {2: 1.0}})
