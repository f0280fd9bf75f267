"""Runs as jobs of a SLURM array, through submitit: placing, limits, the warning before them and putting back."""

import contextlib
import io
import os
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from harness.config import ConfigError
from harness.files import installation
from harness.sweeps.attempt import Outcome
from harness.sweeps.config import SweepConfig
from harness.sweeps.local import WATCH_SECONDS, make_shares, run_side_by_side, visible_gpus
from harness.sweeps.mps import sharing
from harness.sweeps.plan import SweepRun
from harness.sweeps.record import note


class Job:
    """Work of one job of the array. submitit calls `checkpoint` at the warning and puts the job back."""

    def __init__(self, config: SweepConfig):
        self.config = config
        self.stopping = False
        self.work: threading.Thread | None = None
        self.outcomes: list[Outcome] | None = None

    def __call__(self, runs: list[SweepRun]) -> list[Outcome]:
        """Attempts `runs` side by side on what the job has."""
        slurm = self.config.slurm
        gpus = visible_gpus() if slurm.gpus else []
        shares = make_shares(gpus, len(runs), slurm.cpus)
        # A signal handler must not wait for what it interrupted: the work has a thread of its own.
        self.work = threading.Thread(target=self._attempt, args=(runs, shares), daemon=True)
        self.work.start()
        self._join()
        if self.outcomes is None:
            raise RuntimeError("the job's thread ended with the error above")
        return self.outcomes

    def checkpoint(self, runs: list[SweepRun]):
        """Stops the runs; the job to be put back, with those that were stopped, or None if there is nothing left."""
        from submitit.helpers import DelayedSubmission

        self.stopping = True
        self._join()
        if self.work is None:  # nothing was attempted yet
            return DelayedSubmission(Job(self.config), runs)
        outcomes = zip(runs, self.outcomes or (), strict=False)
        left = [run for run, outcome in outcomes if outcome.state == "stopped"]
        return DelayedSubmission(Job(self.config), left) if left else None

    def _join(self) -> None:
        while self.work is not None and self.work.is_alive():
            time.sleep(WATCH_SECONDS)

    def _attempt(self, runs: list[SweepRun], shares: list[dict[str, str]]) -> None:
        gpus = {share["CUDA_VISIBLE_DEVICES"] for share in shares if "CUDA_VISIBLE_DEVICES" in share}
        with sharing(sorted(gpus), len(runs), print) as service:
            shares = [share | service for share in shares]
            self.outcomes = run_side_by_side(runs, shares, self.config.attempts, lambda: self.stopping, job=this_job())


def this_job() -> str | None:
    """Name of the job that this process is in, as squeue writes it."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array else os.environ.get("SLURM_JOB_ID")


def submit(runs: Sequence[SweepRun], config: SweepConfig) -> list[str]:
    """Submits the runs as one array; the names of its jobs. Raises ConfigError if SLURM does not take it."""
    # SLURM sends its warning to every process of a job. Training writes a checkpoint at this one; submitit's own
    # choice, USR2, would end it. submitit reads the variable when it is imported, here and in a job, which inherits it.
    os.environ["SUBMITIT_PREEMPT_SIGNAL"] = "USR1"
    try:
        import submitit
    except ImportError as error:
        raise ConfigError(f"launcher=slurm needs submitit: {installation('sweep')}") from error
    slurm = config.slurm
    parts = [list(runs[i : i + slurm.runs_per_job]) for i in range(0, len(runs), slurm.runs_per_job)]
    further = {"partition": slurm.partition, "gpus_per_node": slurm.gpus}
    folder = Path(slurm.folder).absolute()
    before = set(folder.glob("*"))
    try:
        executor = submitit.SlurmExecutor(folder / "%j", max_num_timeout=slurm.requeues)
        executor.update_parameters(
            job_name="sweep",
            time=slurm.minutes,
            signal_delay_s=slurm.warning_seconds,
            cpus_per_task=slurm.cpus,
            mem=f"{slurm.memory_gb * 1024:.0f}MB",
            array_parallelism=slurm.jobs_at_once,
            additional_parameters={"requeue": True} | slurm.options,
            **{name: value for name, value in further.items() if value},
        )
        with contextlib.redirect_stderr(io.StringIO()):  # submitit repeats there what it raises
            jobs = executor.map_array(Job(config), parts)
    except (OSError, RuntimeError, submitit.core.utils.FailedJobError) as error:
        for path in set(folder.glob("*")) - before:
            if path.suffix in (".pkl", ".sh"):
                path.unlink(missing_ok=True)
        raise ConfigError(f"SLURM did not take the runs: {error}") from error
    for job, part in zip(jobs, parts, strict=True):
        for run in part:
            note(run, "submitted", job=job.job_id)
    return [job.job_id for job in jobs]


def queue() -> dict[str, str]:
    """State of each of the user's jobs that is pending or running, by its name. Raises ConfigError without SLURM."""
    command = ["squeue", "--me", "--array", "--noheader", "--format", "%i %T"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise ConfigError("there is no squeue here: use launcher=local, or a machine of the cluster") from error
    if done.returncode:
        raise ConfigError(f"squeue does not answer: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
    return dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if line.strip())


def job_of(events: Sequence[dict]) -> str | None:
    """Name of the job that a run with this record was last submitted as."""
    submitted = [event["job"] for event in events if event["event"] == "submitted"]
    return submitted[-1] if submitted else None
