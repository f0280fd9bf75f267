"""Seconds of an update and of its parts, and a trace of it.

A cycle is the shortest sequence of updates after which they repeat. An update's numbers are a cycle's mean; where a
method has several kinds of update, they are of one update of each kind.
"""

import os
import statistics
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from harness.capture import WARM_UPS
from harness.hardware import MATRIX_SIDE, synchronize
from harness.loop import Parts
from harness.operations import built_on_meta
from harness.parts import is_captured, recorded_updates
from harness.recipe import Method, Spaces
from harness.spans import listening
from studies.speed.hardware import peak_memory_bytes, reset_peak_memory

REST = "rest"  # time outside every span
KEPT_AHEAD = 4  # multiple of the host's own seconds for which a GPU is kept busy before an update

Update = Callable[[], object]


def time_updates(config, parts: Parts, device: torch.device, repeats: int) -> dict:
    """Updates as a run makes them, by the median, with parts that add up to it.

    On a GPU the parts are those of eager updates; where a run captures its updates, both are timed.
    """
    cycle, update = updates_per_cycle(parts.agent), _cycle(config, parts)
    result = {"updates_timed": repeats * cycle, "captured": is_captured(config, device)}
    if device.type == "cpu":
        reset_peak_memory(device)
        wall, cpu = zip(*time_on_cpu(update, cycle, repeats), strict=True)
        middle = sorted(range(repeats), key=lambda i: sum(wall[i].values()))[(repeats - 1) // 2]
        return result | {
            "update_seconds": sum(wall[middle].values()),
            "update_cpu_seconds": sum(cpu[middle].values()),
            "update_seconds_all": [sum(repeat.values()) for repeat in wall],
            "parts": wall[middle],
            "parts_cpu": cpu[middle],
            "peak_memory_bytes": peak_memory_bytes(device),
        }
    reset_peak_memory(device)
    timed = time_on_gpu(update, cycle, repeats, device)
    result |= {"parts": time_parts_on_gpu(update, cycle, repeats, timed["update_seconds"]), "parts_cpu": {}}
    if result["captured"]:
        result |= {f"eager_{key}": value for key, value in timed.items()}
        reset_peak_memory(device)  # a replay allocates nothing: what it needs, the recording takes
        parts.update = recorded_updates(config, parts.agent, parts.replay, device)
        timed = time_on_gpu(update, cycle, repeats, device)
    return result | timed


def _cycle(config, parts: Parts) -> Update:
    def update() -> None:
        run = parts.update or parts.agent.update
        for variant in parts.agent.cycle:
            run(parts.replay, config.loop.learning_starts, kind_of(variant))

    return update


def kind_of(variant: tuple) -> str:
    """Kind of the updates with these further arguments of `update_on_device`; its name is the first of them, if any."""
    return variant[0] if variant and isinstance(variant[0], str) else "update"


def updates_per_cycle(agent) -> int:
    """Number of updates of one kind in a cycle."""
    return len(agent.cycle) // len({kind_of(variant) for variant in agent.cycle})


def operations_by_part(method: Method, config, spaces: Spaces) -> dict[str, float]:
    """Floating-point operations of one update by part, as `harness.operations` counts them."""
    agent, replay = built_on_meta(method, config, spaces)
    with FlopCounterMode(display=False) as counter:
        borders = borders_of(updates_to_run(agent, replay), counter.get_total_flops)
    return by_part(borders, lambda start, end: (end - start) / updates_per_cycle(agent))


def updates_to_trace(config, parts: Parts, captured: bool) -> dict[str, Update]:
    """Eager updates, and recorded ones where a run captures them."""
    updates = {"eager": updates_to_run(parts.agent, parts.replay)}
    return updates | ({"captured": _cycle(config, parts)} if captured else {})


def updates_to_run(agent, replay) -> Update:
    """The device's share of a cycle of updates."""

    def run() -> None:
        for variant in agent.cycle:
            agent.update_on_device(replay, *variant)

    return run


def time_on_cpu(update: Update, cycle: int, repeats: int) -> list[tuple[dict[str, float], dict[str, float]]]:
    """Seconds of one update by part, by the clock and of the CPU's threads.

    A pair for each of `repeats` calls of `update`, which makes `cycle` updates; a call before them warms up.
    """
    update()

    def timed() -> tuple[dict[str, float], dict[str, float]]:
        borders = borders_of(update, both_clocks)
        wall = by_part(borders, lambda start, end: elapsed(start, end) / cycle)
        return wall, by_part(borders, lambda start, end: cpu_elapsed(start, end) / cycle)

    return [timed() for _ in range(repeats)]


def time_on_gpu(update: Update, cycle: int, repeats: int, device: torch.device) -> dict:
    """Seconds of `repeats` calls of `update`, enqueued one behind the other; CPU seconds are those of enqueueing."""
    for _ in range(WARM_UPS):
        update()
    torch.cuda.synchronize()
    cpu_start, marks = time.process_time(), [_recorded_event()]
    for _ in range(repeats):
        update()
        marks.append(_recorded_event())
    cpu_seconds = time.process_time() - cpu_start
    torch.cuda.synchronize()
    seconds = [_elapsed(start, end) / cycle for start, end in pairwise(marks)]
    return {
        "update_seconds": statistics.median_low(seconds),
        "update_cpu_seconds": cpu_seconds / repeats / cycle,
        "update_seconds_all": seconds,
        "peak_memory_bytes": peak_memory_bytes(device),
    }


def time_parts_on_gpu(update: Update, cycle: int, repeats: int, host_seconds: float) -> dict[str, float]:
    """The GPU's own seconds by part, without its waits for the host, which needs `host_seconds` for an update."""
    side = MATRIX_SIDE["cuda"]
    matrix = torch.rand(side, side, device="cuda")
    for _ in range(WARM_UPS):
        product = borders_of(lambda: matrix @ matrix, _recorded_event)
    torch.cuda.synchronize()
    ahead = int(KEPT_AHEAD * cycle * host_seconds / by_part(product, _elapsed)[REST]) + 1
    timings = []
    for _ in range(repeats):
        for _ in range(ahead):
            matrix @ matrix
        borders = borders_of(update, _recorded_event)
        torch.cuda.synchronize()
        timings.append(by_part(borders, lambda start, end: _elapsed(start, end) / cycle))
    return sorted(timings, key=lambda parts: sum(parts.values()))[(repeats - 1) // 2]


def _recorded_event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _elapsed(start: torch.cuda.Event, end: torch.cuda.Event) -> float:
    return start.elapsed_time(end) / 1000


def borders_of(work: Callable[[], object], mark: Callable[[], Any]) -> list[tuple[str, Any]]:
    """The parts of `work` in their order, each with what `mark` gives when it begins, and a last one at the end."""
    borders = [(REST, mark())]
    with listening(lambda name: borders.append((name or REST, mark()))):
        work()
    return [*borders, (REST, mark())]


def both_clocks() -> tuple[float, float]:
    """The clock's seconds and the CPU's, all threads together."""
    return time.perf_counter(), time.process_time()


def elapsed(start: tuple[float, float], end: tuple[float, float]) -> float:
    return end[0] - start[0]


def cpu_elapsed(start: tuple[float, float], end: tuple[float, float]) -> float:
    return end[1] - start[1]


def by_part(borders: list[tuple[str, Any]], seconds: Callable[[Any, Any], float]) -> dict[str, float]:
    """Seconds by part; all of them together are those between the first mark and the last."""
    parts: Counter[str] = Counter()
    for (name, start), (_, end) in pairwise(borders):
        parts[name] += seconds(start, end)
    return dict(parts)


def write_trace(updates: dict[str, Update], device: torch.device, file: Path) -> None:
    """Writes a profile of each of `updates` as Chrome's trace; each is a range of its name, the parts ranges in it."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's library talks on stderr
    from torch.profiler import ProfilerActivity, profile, record_function

    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with profile(activities=activities) as profiler:
        for name, update in updates.items():
            with record_function(name), ExitStack() as open_part:

                def enter(part: str, open_part=open_part) -> None:
                    open_part.close()
                    open_part.enter_context(record_function(part) if part else nullcontext())

                with listening(enter):
                    update()
                synchronize(device)
    profiler.export_chrome_trace(str(file))
