import pytest
import torch

from harness import hardware
from harness.hardware import cpu_flops_per_second, matrix_rate

CPU = torch.device("cpu")


def test_this_machine_s_rate_is_a_rate():
    assert 1e8 < cpu_flops_per_second() < 1e14


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_core_s_rate_is_no_less_than_the_share_of_it_that_was_had(dtype, monkeypatch):
    monkeypatch.setitem(hardware.MATRIX_SIDE, "cpu", 256)  # larger ones take seconds in bfloat16
    torch.set_num_threads(1)
    rate = matrix_rate(CPU, dtype, seconds=0.02)
    assert 0 < 0.9 * rate.per_second < rate.per_cpu_second
