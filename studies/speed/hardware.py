"""Rates and memory of this machine that a measurement of speed reports, beside those of harness/hardware.py."""

from contextlib import suppress
from pathlib import Path

import torch

from harness.hardware import Rate, rate

COPIED_BYTES = {"cpu": 2**27, "cuda": 2**31}  # far more than a cache holds


def copy_rate(device: torch.device, seconds: float) -> Rate:
    """Bytes that a large copy within the device's memory reads and writes."""
    size = COPIED_BYTES[device.type]
    source = torch.ones(size, dtype=torch.uint8, device=device)  # zeros would be one page, many times over
    target = torch.empty_like(source)
    return rate(lambda: target.copy_(source), 2 * size, device, seconds)


def reset_peak_memory(device: torch.device) -> None:
    """Lets `peak_memory_bytes` count from here, where the system allows it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes(device: torch.device) -> int | None:
    """Most memory that this process held since `reset_peak_memory`, or its start; None where the system does not tell.

    On a GPU it is what tensors took, on a CPU what was resident.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)
