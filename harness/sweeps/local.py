"""Runs side by side on one machine, each with a share of its GPUs and cores."""

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

from harness.sweeps.attempt import Outcome, run_to_end
from harness.sweeps.plan import SweepRun

WATCH_SECONDS = 0.5


def visible_gpus(chosen: str = "") -> list[str]:
    """Names of the GPUs to use, as CUDA_VISIBLE_DEVICES wants them: `chosen`, or that variable's, or all."""
    listed = chosen or os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [name for name in listed.split(",") if name and name != "-1"]  # -1 hides every GPU
    try:
        found = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False)
    except OSError:
        return []
    lines = [line for line in found.stdout.splitlines() if line.startswith("GPU ")]  # a part of one is indented
    return [str(i) for i, _ in enumerate(lines)] if found.returncode == 0 else []


def count_places(gpus: Sequence[str], parallel: int, runs_per_gpu: int, waiting: int) -> int:
    """Number of runs side by side; `parallel` = 0 lets the GPUs decide."""
    return max(1, min(parallel or len(gpus) * runs_per_gpu, waiting))


def make_shares(gpus: Sequence[str], count: int, cores: int) -> list[dict[str, str]]:
    """The environment of each of the `count` runs that go side by side."""
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // count))
    share = {"OMP_NUM_THREADS": threads}
    if gpus and "CUDA_VISIBLE_DEVICES" not in os.environ:  # numbers are nvidia-smi's, and those of EGL
        share["CUDA_DEVICE_ORDER"] = os.environ.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    return [share | ({"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} if gpus else {}) for i in range(count)]


def run_side_by_side(
    runs: Sequence[SweepRun],
    shares: Sequence[dict[str, str]],
    attempts: int,
    stop: Callable[[], bool],
    ended: Callable[[SweepRun, Outcome], None] = lambda run, outcome: None,
    watch: Callable[[], None] = lambda: None,
    job: str | None = None,
) -> list[Outcome]:
    """Runs all, len(shares) at a time, and returns their outcomes. `ended` hears of each; `watch` is called often."""
    free: SimpleQueue = SimpleQueue()
    for share in shares:
        free.put(share)

    def work(run: SweepRun) -> Outcome:
        share = free.get()
        try:
            outcome = run_to_end(run, share, attempts, stop, job)
        finally:
            free.put(share)
        ended(run, outcome)
        return outcome

    pool = ThreadPoolExecutor(len(shares))  # no `with`: it would wait for the runs where `watch` raises
    futures = [pool.submit(work, run) for run in runs]
    while not all(future.done() for future in futures):
        watch()
        time.sleep(WATCH_SECONDS)
    pool.shutdown()
    return [future.result() for future in futures]
