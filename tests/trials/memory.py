"""Trial memory: agent steps in which the process must not grow."""

import contextlib
import re
import resource
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tests.trials.runs import Case, Run

GROWTH = 8  # megabytes that a process may be larger in its last quarter than in its second


def memory(count: int, random: Random, scratch: Path) -> Iterator[Case]:
    """Half of the steps with each suite."""
    for suite, length in (("atari", f"agent_steps={count // 2}"), ("dmcontrol", f"env_steps={count // 2 * 8}")):
        every = max(1, count // 100)
        sizes = [
            "replay.capacity=500", f"log_every={every}", f"checkpoint_every={every}", "loop.replay_ratio=0.2",
            f"{'eval_every' if suite == 'atari' else 'eval_every_env_steps'}=0",
        ]  # fmt: skip
        run = Run(scratch / suite, suite, length, *sizes)
        process, megabytes = run.start(), []
        while process.is_alive():
            process.join(0.05)
            with contextlib.suppress(OSError, IndexError):
                pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
                steps = re.findall(r"^(\d+)/", run.output, re.MULTILINE)
                megabytes.append((int(steps[-1]), pages * resource.getpagesize() / 1e6))
        quarters = {step * 8 // count: [] for step, _ in megabytes}
        for step, size in megabytes:
            quarters[step * 8 // count].append(size)
        size = [max(quarters.get(quarter, [0])) for quarter in (1, 3)]
        text = f"{suite}: {count // 2} steps, {size[0]:.1f} MB in the second quarter, {size[1]:.1f} MB in the last"
        problem = "" if process.exitcode == 0 and size[1] - size[0] < GROWTH and size[0] else "grew"
        yield Case(text, problem and f"{problem}, exit {process.exitcode}: {run.errors}")
