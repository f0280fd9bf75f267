"""Rates of this machine, measured."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

COPIED_BYTES = {"cpu": 2**27, "cuda": 2**31}  # far more than a cache holds
MATRIX_SIDE = {"cpu": 1024, "cuda": 8192}


@dataclass(frozen=True)
class Rate:
    """Amount of work per second."""

    per_second: float
    per_cpu_second: float  # of this process, all its threads; what is left of a rate where others use the machine too


def cpu_flops_per_second() -> float:
    """The rate of a float32 matrix product if all of torch's threads have a core of their own; takes a fraction of a
    second. Other work on the machine does not lower it.
    """
    return matrix_rate(torch.device("cpu"), torch.float32, seconds=0.2).per_cpu_second * torch.get_num_threads()


def matrix_rate(device: torch.device, dtype: torch.dtype, seconds: float) -> Rate:
    """Floating-point operations of a large matrix product; what float32 means on a GPU is `set_precision`'s choice."""
    side = MATRIX_SIDE[device.type]
    a, b = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
    return _rate(lambda: a @ b, 2 * side**3, device, seconds)


def copy_rate(device: torch.device, seconds: float) -> Rate:
    """Bytes that a large copy within the device's memory reads and writes."""
    size = COPIED_BYTES[device.type]
    source = torch.ones(size, dtype=torch.uint8, device=device)  # zeros would be one page, many times over
    target = torch.empty_like(source)
    return _rate(lambda: target.copy_(source), 2 * size, device, seconds)


def _rate(work: Callable[[], object], amount: float, device: torch.device, seconds: float) -> Rate:
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


def reset_peak_memory(device: torch.device) -> None:
    """Lets `peak_memory_bytes` count from here, where the system allows it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes(device: torch.device) -> int | None:
    """The most that this process held since `reset_peak_memory`, or its start: of a GPU's memory what tensors took, of
    the CPU's what was resident.

    None where the system does not tell.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)
