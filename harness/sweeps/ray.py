"""Runs as tasks of a Ray cluster, which places them by cores and fractions of a GPU."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress

from harness.config import ConfigError
from harness.sweeps.attempt import Outcome, run_to_end
from harness.sweeps.config import SweepConfig
from harness.sweeps.local import WATCH_SECONDS
from harness.sweeps.plan import SweepRun


def connect(config: SweepConfig) -> None:
    """Joins the cluster, or starts a Ray of this machine. Raises ConfigError where there is none, or no room.

    It takes the signals for itself: whoever wants them sets their handlers afterwards.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError("launcher=ray needs Ray: pip install 'ray>=2.40,<3'") from error
    try:
        ray.init(address=config.ray.address or None, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"ray.address={config.ray.address}: {error}") from error
    there = ray.cluster_resources()
    for key, wanted, name in (("cpus", config.ray.cpus, "CPU"), ("gpus", config.ray.gpus, "GPU")):
        if wanted > there.get(name, 0):
            ray.shutdown()
            raise ConfigError(f"ray.{key}={wanted:g} is more than Ray has, {there.get(name, 0):g}: lower it")


def reason(error: Exception) -> str:
    """In one line; a task's own exception is its cause, without the traceback."""
    cause = getattr(error, "cause", None) or error
    return next(iter(str(cause).strip().splitlines()), type(cause).__name__)


def run_on_ray(
    runs: Sequence[SweepRun],
    config: SweepConfig,
    stop: Callable[[], bool],
    ended: Callable[[SweepRun, Outcome], None],
    watch: Callable[[], None],
) -> list[Outcome]:
    """Runs all and returns their outcomes. Ray decides how many go at a time, and where, and replaces lost machines."""
    import ray

    task = ray.remote(max_retries=-1, num_cpus=config.ray.cpus, num_gpus=config.ray.gpus)(_work)
    waiting = {task.remote(run, config.attempts, os.getcwd()): run for run in runs}
    outcomes = {run.name: Outcome("stopped") for run in runs}
    try:
        while waiting and not stop():
            for done in ray.wait(list(waiting), timeout=WATCH_SECONDS)[0]:
                run = waiting.pop(done)
                try:
                    outcomes[run.name] = ray.get(done)
                except ray.exceptions.RayError as error:
                    outcomes[run.name] = Outcome("failed", f"Ray: {reason(error)}")
                ended(run, outcomes[run.name])
            watch()
        for reference in waiting:
            ray.cancel(reference)
        for done in ray.wait(list(waiting), num_returns=len(waiting))[0] if waiting else ():
            with suppress(ray.exceptions.RayError):  # it was stopped; others ended by themselves meanwhile
                outcomes[waiting[done].name] = ray.get(done)
                ended(waiting[done], outcomes[waiting[done].name])
    finally:
        ray.shutdown()
    return [outcomes[run.name] for run in runs]


def _work(run: SweepRun, attempts: int, folder: str) -> Outcome:
    os.chdir(folder)  # on a disk that all machines see
    return run_to_end(run, {}, attempts, lambda: False)
