"""Kills, starves and misleads real tiny runs, and prints what held: python -m tests.trials.torture [trial ...]

Trials, each with the number of cases that --count replaces:
  kill 200      kill -9 at random instants and at single file operations; the run must end as if nothing had happened
  save 500      kill -9 of a process that only saves; a good checkpoint must load afterwards
  signals 50    each stop signal at random instants; exit 75, and the run must end as if nothing had happened
  damage 1000   flipped bits, cut, swapped, missing and foreign files; found and named, the older checkpoint used
  config 200    malformed command lines; one line, exit 2, nothing written
  hostile 18    files made to run code, to read elsewhere, or to fill the memory; refused at once
  disk 50       disk full at any write, folder read-only or removed; one line, exit 74, the checkpoint stays good
  evaluation 20 workers of an evaluation killed and stopped; found in time, none is left over, and the run ends as ever
  finite 100    NaN and infinity in reward, loss, gradient, weight, moment, priority, score; exit 70 before it is saved
  altered 1000  scores, actions and seeds changed; playing the episodes again names each
  seeds 20      equal seeds end equal, different ones differ
  sweep 40      runs of a sweep killed at random, the sweep stopped and killed; each run must finish exactly once
  memory 50000  agent steps in which the process must not grow

Runs are processes forked from this one, which has imported most of what they need and composed their configuration;
from there on they are what the command line starts, but draw no learning curve.
Some trials on `disk` mount a small tmpfs and are left out where that is not allowed.
"""

import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import torch

from harness.command_line import Options
from harness.config import ConfigError
from harness.messages import refuse
from tests.trials.altered import altered
from tests.trials.config import config
from tests.trials.damage import damage
from tests.trials.disk import disk
from tests.trials.evaluation import evaluation
from tests.trials.finite import finite
from tests.trials.hostile import HOSTILE, hostile
from tests.trials.kill import kill
from tests.trials.memory import memory
from tests.trials.runs import SETTINGS, SUITES
from tests.trials.save import save
from tests.trials.seeds import seeds
from tests.trials.signals import signals
from tests.trials.sweep import sweep

TRIALS = {  # with the cases, and those of --short
    "kill": (kill, 200, 1),
    "save": (save, 500, 10),
    "signals": (signals, 50, 1),
    "damage": (damage, 1000, 6),
    "config": (config, 200, 10),
    "hostile": (hostile, len(HOSTILE), len(HOSTILE)),
    "disk": (disk, 50, 1),
    "evaluation": (evaluation, 20, 1),
    "finite": (finite, 100, 1),
    "altered": (altered, 1000, 1),
    "seeds": (seeds, 20, 0),
    "sweep": (sweep, 40, 0),  # four of them are a test of tests/test_sweep.py
    "memory": (memory, 50_000, 0),
}
SHORT = {"atari": "eval_every=48", "dmcontrol": "eval_every_env_steps=240"}  # one evaluation less


def main(arguments: list[str] | None = None) -> int:
    parser = Options(__doc__, "python -m tests.trials.torture")
    parser.add_argument("trials", nargs="*", metavar="trial", help=f"any of {', '.join(TRIALS)}; by default all")
    parser.add_argument("--count", type=int, help="cases of each trial, instead of those above")
    parser.add_argument("--short", action="store_true", help="a few cases of each trial")
    parser.add_argument("--suites", nargs="+", choices=SETTINGS, default=SUITES, help="of runs; mwm is Meta-world")
    parser.add_argument("--seed", type=int, default=1, help="of what is drawn at random")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    try:
        options = parser.parse_args(arguments)
    except ConfigError as error:
        return refuse(error)
    unknown = set(options.trials) - TRIALS.keys()
    if unknown:
        print(f"error: no trial named {', '.join(sorted(unknown))}: {', '.join(TRIALS)}", file=sys.stderr)
        return 2
    SUITES[:] = options.suites
    for suite, setting in SHORT.items() if options.short else ():
        key = setting.partition("=")[0]
        SETTINGS[suite] = [each for each in SETTINGS[suite] if not each.startswith(f"{key}=")] + [setting]
    import_all()
    rows = []
    print(f"{'trial':<11}{'cases':>7}{'failed':>8}{'seconds':>9}  what")
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.trials or TRIALS:
            trial, full, short = TRIALS[name]
            count = options.count or (short if options.short else full)
            if not count:  # too long for --short
                continue
            rows.append(row(name, trial, count, options.seed, Path(scratch)))
            print("{trial:<11}{cases:>7}{failed:>8}{seconds:>9.0f}  {what}".format(**rows[-1]), flush=True)
            for problem in rows[-1]["problems"][:10]:
                print(f"    {problem}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    return int(any(entry["failed"] for entry in rows))


def import_all() -> None:
    """Imports early what a run imports late, except for OpenGL, which does not survive a fork."""
    import cv2  # noqa: F401
    import scipy.ndimage  # noqa: F401

    torch.set_num_threads(1)  # a forked process has no other threads


def row(name: str, trial: Callable, count: int, seed: int, scratch: Path) -> dict:
    start = time.monotonic()
    folder = scratch / name
    folder.mkdir()
    cases = list(trial(count, Random(f"{name} {seed}"), folder))
    kinds = Counter(case.what for case in cases)
    problems = [f"{case.what}: {' '.join(case.problem.split())}" for case in cases if case.problem]
    return {
        "trial": name,
        "cases": len(cases),
        "failed": len(problems),
        "seconds": time.monotonic() - start,
        "seed": seed,
        "what": ", ".join(f"{kind} {number}" for kind, number in sorted(kinds.items())),
        "problems": problems,
    }


if __name__ == "__main__":
    sys.exit(main())
