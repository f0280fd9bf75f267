import pytest

from mwm.config import ScheduleConfig
from mwm.schedule import Rounds


def test_the_paper_s_schedule():
    schedule = Rounds(5000, ScheduleConfig(pretraining=5000, every=5), "first")
    assert not any(schedule.due(step) for step in range(4999))
    pretraining = schedule.due(4999)
    assert pretraining[:3] == ("autoencoder", "dynamics", "autoencoder")
    assert pretraining[-3:] == ("autoencoder", "autoencoder", "dynamics")
    assert pretraining.count("autoencoder") == 5001 and pretraining.count("dynamics") == 2
    # Steps count from 1 in the paper's code: 5,001, 5,006, ...
    assert [step + 1 for step in range(5000, 5015) if schedule.due(step)] == [5001, 5006, 5011]
    assert schedule.due(5000) == ("autoencoder", "dynamics")


@pytest.mark.parametrize("update_at", ["first", "last"])
@pytest.mark.parametrize("every", [1, 3, 5])
def test_the_total_is_the_sum_of_what_is_due(every, update_at):
    schedule = Rounds(7, ScheduleConfig(pretraining=2, every=every), update_at)
    made = 0
    for step in range(30):
        assert schedule.total(step) == made
        made += len(schedule.due(step))
    assert schedule.total(30) == made > 5


def test_the_last_of_five_steps():
    schedule = Rounds(10, ScheduleConfig(pretraining=1, every=5), "last")
    assert [step for step in range(10, 25) if schedule.due(step)] == [14, 19, 24]
