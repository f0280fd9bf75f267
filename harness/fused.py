"""Choice between a fused way to compute something on a GPU and torch's own operations: only where both agree."""

import operator
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from harness.config import ConfigError
from harness.hardware import synchronize
from harness.messages import in_one_line

COMPARED_IMAGES = 256
WARM_UPS, REPEATS = 3, 5
# Largest norm of a difference over the norm of what torch's operations give.
TOLERANCES = {"fp32": 1e-4, "tf32": 5e-3, "bf16": 3e-2}

Compute = Callable[[], Sequence[Tensor]]  # returns results and gradients


def reason_against(
    fused: Compute,
    plain: Compute,
    precision: str,
    seconds: Callable[[Compute], float],
    floor: float = 1e-12,
    timed: tuple[Compute, Compute] | None = None,
) -> str:
    """Reason not to compute the fused way, in words; empty where it agrees with `plain` and takes less time.

    Both must start from equal states and draws. `timed` is work to time in the place of both. A difference counts
    relative to the norm of the result, or to `floor` if that is more. A library or driver that refuses is a reason too.

    Raises ConfigError where the GPU cannot go on.
    """
    try:
        expected = [result.detach().float() for result in plain()]
        for result, right in zip(fused(), expected, strict=True):
            off = float((result.detach().float() - right).norm() / right.norm().clamp(min=floor))
            if not off <= TOLERANCES[precision]:  # NaN is not either
                return f"differs by {off:.1e}"
        slower = operator.truediv(*map(seconds, timed or (fused, plain)))
    except torch.OutOfMemoryError:
        raise
    except torch.AcceleratorError as error:  # nothing can be computed on this GPU any more by this process
        raise ConfigError(f"a fused way ended in an error of the GPU: use fused=off ({error})") from error
    except Exception as error:  # raised by a compiler, a library or a driver; torch's operations remain
        return f"{type(error).__name__}: {in_one_line(str(error))[:200]}"
    return f"takes {slower:.2f} times as long" if slower >= 1 else ""


def seconds_on(device: torch.device) -> Callable[[Compute], float]:
    """A function that times work on a device, after warming up: the least of some repeats."""

    def seconds(work: Compute) -> float:
        timings = []
        for _ in range(WARM_UPS + REPEATS):
            synchronize(device)
            start = time.perf_counter()
            work()
            synchronize(device)
            timings.append(time.perf_counter() - start)
        return min(timings[WARM_UPS:])

    return seconds
