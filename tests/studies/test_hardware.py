import mmap
import os
import resource

import pytest
import torch

from studies.speed.hardware import copy_rate, peak_memory_bytes, reset_peak_memory

CPU = torch.device("cpu")


def test_a_copy_moves_more_than_a_slow_disk_and_less_than_any_memory():
    assert 1e8 < copy_rate(CPU, seconds=0.02).per_second < 1e13


def test_the_peak_of_memory_counts_from_where_it_was_reset():
    block = mmap.mmap(-1, 2**28)  # no tensor: malloc may take one from memory that it keeps, and keep it once more
    for page in range(0, len(block), mmap.PAGESIZE):
        block[page] = 1
    before = peak_memory_bytes(CPU)
    assert before == pytest.approx(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, rel=0.05)
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("this system's peak cannot be reset")
    block.close()
    reset_peak_memory(CPU)
    assert peak_memory_bytes(CPU) < before - 2**27
