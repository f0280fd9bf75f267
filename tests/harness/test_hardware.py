import os
import resource

import pytest
import torch

from harness.hardware import copy_rate, cpu_flops_per_second, matrix_rate, peak_memory_bytes, reset_peak_memory

CPU = torch.device("cpu")


def test_this_machine_s_rate_is_a_rate():
    assert 1e8 < cpu_flops_per_second() < 1e14


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_core_s_rate_is_no_less_than_the_share_of_it_that_was_had(dtype):
    torch.set_num_threads(1)
    rate = matrix_rate(CPU, dtype, seconds=0.02)
    assert 0 < 0.9 * rate.per_second < rate.per_cpu_second


def test_a_copy_moves_more_than_a_slow_disk_and_less_than_any_memory():
    assert 1e8 < copy_rate(CPU, seconds=0.02).per_second < 1e13


def test_the_peak_of_memory_counts_from_where_it_was_reset():
    block = torch.ones(2**28, dtype=torch.uint8)
    before = peak_memory_bytes(CPU)
    assert before == pytest.approx(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, rel=0.05)
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("this system's peak cannot be reset")
    del block
    reset_peak_memory(CPU)
    assert peak_memory_bytes(CPU) < before - 2**27
