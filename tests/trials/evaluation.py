"""Trial evaluation: worker processes of an evaluation killed and stopped."""

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tests.trials.runs import PATIENCE, Case, Run, end, references

CAUSES = {signal.SIGKILL: "died (SIGKILL)", signal.SIGSTOP: "said nothing for"}  # named by the run
SPREADS = {  # place of an evaluation, and its processes
    "workers": ("evaluation.background=false", "evaluation.workers=2"),
    "background": ("evaluation.background=true", "evaluation.workers=0"),
    "both": ("evaluation.background=true", "evaluation.workers=1"),
}


def evaluation(count: int, random: Random, scratch: Path) -> Iterator[Case]:
    """Every fifth case waits as long as a run usually does."""
    reference = references(scratch.parent)
    for number in range(count):
        suite, spread = random.choice(list(reference)), random.choice(list(SPREADS))
        sooner = [] if number % 5 == 0 else ["evaluation.timeout_seconds=10"]
        run = Run(scratch / f"run-{number}", suite, *SPREADS[spread], *sooner)
        case = lose_a_worker(run, reference[suite][0], random)
        yield Case(f"{spread}: {case.what}", case.problem and f"{suite}, {case.problem}")
        shutil.rmtree(run.folder)


def lose_a_worker(run: Run, reference: Run, random: Random) -> Case:
    """Kills or stops a process of one of the run's evaluations, or in some cases kills one and then the run."""
    process = run.start(prepare=os.setsid)
    evaluations, with_run = random.randrange(1, 4), random.random() < 0.25
    signalled = signal.SIGKILL if with_run else random.choice([signal.SIGKILL, signal.SIGSTOP])
    while process.is_alive() and not (run.output.count("evaluating") >= evaluations and workers_of(process.pid)):
        time.sleep(0.01)
    time.sleep(random.uniform(0, 1.5))
    workers = workers_of(process.pid)
    if workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(random.choice(workers), signalled)
    what = signalled.name if workers else "none there"
    if workers and with_run:
        end(process, random.uniform(0, 1))
        what, problem = f"{what}, then the run killed", ""
    else:
        hung = end(process, PATIENCE)
        found = [line for line in run.output.splitlines() if "played again" in line]
        if workers:
            what += ", found" if found else ", not missed"
        problem = "hung" if hung else f"exit {process.exitcode}: {run.errors}" if process.exitcode else ""
        problem += "".join(f"another cause: {line}" for line in found if CAUSES[signalled] not in line)
    return Case(what, problem or left_over(process.pid) or run.ends_like(reference))


def left_over(session: int) -> str:
    """Processes of a session that go on after its run has ended."""
    deadline = time.monotonic() + PATIENCE
    while processes_of(session) and time.monotonic() < deadline:
        time.sleep(0.05)
    return " ".join(f"left {command}" for command in processes_of(session).values())


def workers_of(session: int) -> list[int]:
    return [pid for pid, command in processes_of(session).items() if "--multiprocessing-fork" in command]


def processes_of(session: int) -> dict[int, str]:
    """Command lines of the processes that are alive in a session, by their ids."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            state, _, _, owner = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(owner) == session and state not in "ZX":
                found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
    return found
