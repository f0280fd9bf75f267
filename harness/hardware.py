"""Rates of this machine, measured."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

MATRIX_SIDE = {"cpu": 1024, "cuda": 8192}


@dataclass(frozen=True)
class Rate:
    """Amount of work per second."""

    per_second: float
    per_cpu_second: float  # CPU time of this process's threads; other work on the machine does not lower this rate


def cpu_flops_per_second() -> float:
    """Rate of a float32 matrix product if each of torch's threads has a core; other work does not lower it.

    Takes a fraction of a second.
    """
    return matrix_rate(torch.device("cpu"), torch.float32, seconds=0.2).per_cpu_second * torch.get_num_threads()


def matrix_rate(device: torch.device, dtype: torch.dtype, seconds: float) -> Rate:
    """Floating-point operations of a large matrix product; what float32 means on a GPU is `set_precision`'s choice."""
    side = MATRIX_SIDE[device.type]
    a, b = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
    return rate(lambda: a @ b, 2 * side**3, device, seconds)


def rate(work: Callable[[], object], amount: float, device: torch.device, seconds: float) -> Rate:
    """Does `work`, which is `amount` of it, for `seconds`, and at least once after warming up."""
    work()
    synchronize(device)
    done, start, cpu_start = 0, time.perf_counter(), time.process_time()
    while not done or time.perf_counter() - start < seconds:
        work()
        synchronize(device)
        done += 1
    elapsed, cpu_elapsed = time.perf_counter() - start, time.process_time() - cpu_start
    return Rate(done * amount / elapsed, done * amount / cpu_elapsed)


def synchronize(device: torch.device) -> None:
    """Waits until the device has done what it was given; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
