"""What this machine can do, measured."""

import time

import torch


def cpu_flops_per_second() -> float:
    """The rate of a float32 matrix product here, measured in a fraction of a second."""
    size = 1024
    a, b = torch.rand(size, size), torch.rand(size, size)
    a @ b
    start, products = time.perf_counter(), 0
    while time.perf_counter() - start < 0.2:
        a @ b
        products += 1
    return products * 2 * size**3 / (time.perf_counter() - start)
