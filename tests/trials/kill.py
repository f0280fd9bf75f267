"""Trial kill: `kill -9` at random instants and at single file operations of real runs."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tests.trials.runs import Case, Run, at_file_operation, end, kill_self, references


def kill(count: int, random: Random, scratch: Path) -> Iterator[Case]:
    reference = references(scratch.parent)
    while count > 0:
        suite = random.choice(list(reference))
        uninterrupted, seconds = reference[suite]
        run = Run(scratch / f"run-{count}", suite)
        phases = []
        for _ in range(min(count, 6)):
            if random.random() < 0.5:
                code = run.finish(prepare=at_file_operation(random.randrange(90), run.folder, kill_self))
            else:
                process = run.start()
                end(process, random.uniform(0, seconds))
                code = process.exitcode
            if code == 0:
                break
            phases.append(phase(run) if code == -signal.SIGKILL else f"exit {code}")
        problem = run.ends_like(uninterrupted)
        yield from (Case(name, problem or (run.errors if name.startswith("exit") else "")) for name in phases)
        count -= len(phases)
        shutil.rmtree(run.folder)


def phase(run: Run) -> str:
    """Phase of a killed run, judged by its files and output."""
    if any(run.folder.glob("checkpoints/.*.part")) or any(run.folder.glob("checkpoints/replay/*.part")):
        return "save"
    lines = run.output.splitlines()
    if not any(line.startswith("run folder") for line in lines):
        return "resume" if any(run.folder.glob("checkpoints/0*")) else "start-up"
    return "evaluation" if lines[-1].startswith("evaluating") else "training"
