import pytest

from harness.schedule import ReplayRatio, count_kinds


@pytest.mark.parametrize(
    "ratio, counts", [(2, [2] * 6), (1, [1] * 6), (0.5, [0, 1] * 3), (1.5, [1, 2] * 3), (0, [0] * 6)]
)
def test_updates_due(ratio, counts):
    schedule = ReplayRatio(10, ratio)
    assert [schedule.due(step) for step in range(8, 16)] == [("update",) * count for count in (0, 0, *counts)]
    assert [schedule.total(steps) for steps in (0, 10, 16)] == [0, 0, sum(counts)]


@pytest.mark.parametrize("ratio", [0.1, 0.3, 2.0])
def test_the_total_is_what_is_due_up_to_there(ratio):
    schedule, made = ReplayRatio(3, ratio), 0
    for step in range(200):
        assert schedule.total(step) == made
        made += len(schedule.due(step))


def test_the_paper_makes_196000_updates():
    schedule = ReplayRatio(2000, 2.0)
    assert schedule.total(100_000) == sum(len(schedule.due(step)) for step in range(100_000)) == 196_000


def test_kinds_are_counted_as_often_as_they_come():
    assert count_kinds(ReplayRatio(5, 0.5), 20) == {"update": 7}
