from mlr.training.hardware import cpu_flops_per_second


def test_this_machine_s_rate_is_a_rate():
    assert 1e8 < cpu_flops_per_second() < 1e14
