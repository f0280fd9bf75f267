"""Trial signals: each stop signal at random instants."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

from harness.stop import STOP_SIGNALS
from tests.trials.runs import PATIENCE, Case, Run, end, references


def signals(count: int, random: Random, scratch: Path) -> Iterator[Case]:
    reference = references(scratch.parent)
    while count > 0:
        suite = random.choice(list(reference))
        uninterrupted, seconds = reference[suite]
        run = Run(scratch / f"run-{count}", suite)
        cases = []
        for _ in range(min(count, 4)):
            process = run.start()
            time.sleep(random.uniform(0.05, seconds))
            number = random.choice(STOP_SIGNALS)
            if process.is_alive():
                os.kill(process.pid, number)
            hung = end(process, PATIENCE)
            what = f"{number.name}, {'ended' if process.exitcode == 0 else 'stopped'}"
            before = process.exitcode == -number and not run.output  # as usual before the run has begun
            right = process.exitcode in (0, 75) and not run.errors or before
            cases.append(Case(f"{number.name}, before the start" if before else what))
            if hung or not right:
                cases[-1].problem = f"exit {process.exitcode}, {run.errors}"
            if process.exitcode == 0:
                break
        problem = run.ends_like(uninterrupted)
        yield from (Case(case.what, case.problem or problem) for case in cases)
        count -= len(cases)
        shutil.rmtree(run.folder)
