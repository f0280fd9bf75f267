import pytest

from harness.clock import Clock


def test_seconds_by_phase_since_the_last_reading():
    times = iter([0.0, 1.0, 3.0, 4.0, 4.5, 10.0, 11.0, 12.0, 20.0])
    measure = Clock(lambda: next(times))
    for _ in range(2):
        with measure("act"):
            pass
    assert measure.read() == {"act": pytest.approx(2.5), "total": pytest.approx(10.0)}
    with measure("update"):
        pass
    assert measure.read() == {"update": pytest.approx(1.0), "total": pytest.approx(10.0)}
