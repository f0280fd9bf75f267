"""Trial sweep: runs of a sweep killed at random, while the sweep is told to stop, killed, and left to its end."""

import csv
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

from harness.report.scores import read_runs
from tests.sweeps import SWEEP, TINY, attempts
from tests.sweeps import sweep as call
from tests.trials.runs import PATIENCE, Case

TASKS, AUXILIARIES = "pong,boxing,breakout,freeway,finger_spin", "mlr,none"


def sweep(count: int, random: Random, scratch: Path, tasks: str = TASKS) -> Iterator[Case]:
    """A sweep of `count` runs, rounded up to a multiple of two for each task."""
    a_seed = 2 * len(tasks.split(","))
    seeds = -(-count // a_seed)
    runs = a_seed * seeds
    settings = ["table=atari100k,dmcontrol100k", f"tasks={tasks}", f"auxiliary={AUXILIARIES}", f"seeds={seeds}"]
    settings += ["parallel=2", "attempts=20", *TINY]
    for done, end in ((-(-runs // 5), signal.SIGTERM), (runs // 2, signal.SIGKILL), (runs, None)):
        process = subprocess.Popen([*SWEEP, *settings], cwd=scratch, stdout=subprocess.DEVNULL)
        kill_runs(process, done, 1 + runs // 8, scratch, random)
        over = end is not None and process.poll() is not None
        if end is not None:
            process.send_signal(end)
        expected = {signal.SIGTERM: 75, signal.SIGKILL: -signal.SIGKILL, None: 0}[end]
        code = process.wait(PATIENCE)
        what = f"sweep ended by {end.name}" if end else "sweep ended by itself"
        yield Case(what, "the sweep was over before" if over else f"exit {code}" if code != expected else "")

    record = attempts(scratch)
    complete = len(record) == runs == sum(run.is_finished for run in read_runs([scratch / "runs"]))
    yield Case("results", "" if complete else f"{len(record)} of {runs} runs have a record, or not all are finished")
    for run, events in record.items():
        killed = any(event.get("code") == -signal.SIGKILL for event in events)
        yield Case("run, killed" if killed else "run, not seen killed", problem_of(scratch / run, events))
    again = call(scratch, *settings)
    status = call(scratch, "status", *settings).stdout
    idle = again.returncode == 0 and attempts(scratch) == record
    idle = idle and f"{runs} runs: {runs} done, 0 running, 0 waiting, 0 failed" in status
    yield Case("sweep once more", "" if idle else f"there was nothing left to do: {again.stdout}{status}")


def problem_of(folder: Path, events: list[dict]) -> str:
    """Fault of a run's record or rows, if it did not finish exactly once."""
    codes = Counter(event["code"] for event in events if event["event"] == "ended")
    if codes[0] != 1 or events[-1].get("code") != 0 or set(codes) - {0, 75, -signal.SIGKILL, -signal.SIGTERM}:
        return f"{folder} ended with {dict(codes)}"
    episodes = Counter((row["agent_steps"], row["episode"]) for row in read(folder / "evaluations.csv"))
    if max(episodes.values()) > 1:
        return f"{folder} has an evaluation twice"
    steps = [int(row["agent_steps"]) for row in read(folder / "metrics.csv")]
    return "" if steps == list(range(12, steps[-1] + 1, 12)) else f"{folder} has rows at {steps}"


def kill_runs(process: subprocess.Popen, done: int, limit: int, folder: Path, random: Random) -> None:
    """kill -9 of a random run every few seconds until `done` are done.

    The `limit` of kills lets the sweep get on where the machine is busy.
    """

    def over() -> bool:
        return finished(folder) >= done or process.poll() is not None

    kills = 0
    while not over():
        pause = time.monotonic() + random.uniform(1, 8)
        while time.monotonic() < pause and not over():
            time.sleep(0.2)
        runs = [] if over() else under_way(folder)
        if runs and kills < limit:
            os.kill(random.choice(runs), signal.SIGKILL)
            kills += 1


def under_way(folder: Path) -> list[int]:
    """Processes that train."""
    started = [events[-1]["pid"] for events in attempts(folder).values() if events[-1]["event"] == "started"]
    return [pid for pid in started if trains(pid)]


def trains(pid: int) -> bool:
    try:
        return b"/commands/train_" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def finished(folder: Path) -> int:
    return sum(any(event.get("code") == 0 for event in events) for events in attempts(folder).values())


def read(path: Path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
