"""State of each run of a sweep, and the time until all are done."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from harness.sweeps.plan import SweepRun
from harness.sweeps.record import is_claimed, is_settled, log_path, read_events, trained
from harness.sweeps.slurm import job_of

STATES = ("done", "running", "waiting", "failed")


@dataclass(frozen=True)
class Status:
    run: SweepRun
    state: str  # one of STATES
    agent_step: int
    attempts: int
    seconds: float  # duration of the run's agent steps
    queued: bool  # it has a job in the cluster that waits or runs
    reason: str  # why it failed, or which job it waits for


def read_status(run: SweepRun, jobs: Mapping[str | None, str]) -> Status:
    """jobs: state of each pending or running job of the cluster, by its name."""
    events = read_events(run)
    job = job_of(events)
    last = events[-1] if events else {}
    if is_settled(run):
        state, reason = "done", ""
    elif is_claimed(run):
        state, reason = "running", ""
    elif last.get("outcome") == "failed":  # the other runs of its job may go on
        state, reason = "failed", f"{last['reason']} ({log_path(run)})"
    elif jobs.get(job) == "RUNNING":
        state, reason = "running", ""
    elif job in jobs:
        state, reason = "waiting", f"job {job}"
    else:
        state, reason = "waiting", ""
    attempts = sum(event["event"] == "started" for event in events)
    steps, seconds = trained(run)
    return Status(run, state, steps, attempts, seconds, job in jobs, reason)


def seconds_left(statuses: Sequence[Status]) -> dict[str, float]:
    """Estimates, by name, the seconds of each run that waits or goes on, as if all had a slot already.

    An agent step takes what those in the metrics of the sweep's runs of its suite took, evaluations in between
    included, starts and the last evaluation not. Runs of a suite without metrics are left out.
    """
    pace = {}
    for suite in {status.run.suite for status in statuses}:
        known = [status for status in statuses if status.run.suite == suite and status.seconds]
        steps = sum(status.agent_step for status in known)
        if steps:
            pace[suite] = sum(status.seconds for status in known) / steps
    return {
        status.run.name: max(status.run.agent_steps - status.agent_step, 0) * pace[status.run.suite]
        for status in statuses
        if status.state in ("running", "waiting") and status.run.suite in pace
    }


def summary(statuses: Sequence[Status]) -> str:
    """Line such as `40 runs: 12 done, 2 running, 25 waiting, 1 failed  ETA 1:20:00`."""
    counts = Counter(status.state for status in statuses)
    line = f"{len(statuses)} runs: " + ", ".join(f"{counts[state]} {state}" for state in STATES)
    left = seconds_left(statuses)
    if not counts["running"] or len(left) < counts["running"] + counts["waiting"]:
        return line
    longest = max(left.get(status.run.name, 0.0) for status in statuses if status.state == "running")
    return f"{line}  ETA {_duration(max(longest, sum(left.values()) / counts['running']))}"


def table(statuses: Sequence[Status]) -> str:
    """A line per run, and the summary."""
    left = seconds_left(statuses)
    rows = [("run", "state", "agent steps", "attempts", "ETA", "")]
    for status in statuses:
        eta = _duration(left[status.run.name]) if status.state == "running" and status.run.name in left else ""
        steps = f"{status.agent_step:,}/{status.run.agent_steps:,}"
        rows.append((status.run.name, status.state, steps, str(status.attempts), eta, status.reason))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join([*lines, summary(statuses)])


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
