"""Trial config: malformed command lines."""

import contextlib
import io
import itertools
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random

from commands import evaluate, inspect_run
from harness.command_line import launch
from harness.run_folder import check_run
from recipes import COMMANDS
from tests.trials.runs import Case, one_line

WRONG = {
    "atari": [
        "game=pomg", "game=", "agent_steps=0", "agent_steps=-1", "agent_steps=1.5", "agent_steps=many", "seed=-1",
        "seed=1e99", "preset=huge", "auxiliary=nothing", "fidelity=none", "mlr.mask.ratio=2", "mlr.mask.ratio=nan",
        "mlr.mask.ratio=-inf", "mlr.mask.strategy=cubes", "replay.window=5", "mlr.tau=2", "agent.batch_size=0",
        "agent.discount=2", "agent.encoder.kernels=[1]", "agent.encoder.channels=[]", "replay.capacity=3",
        "mask_ratio=1", "+new=1", "~mlr", "mlr=3", "mlr.mask=null", "game=[pong", "game=pong}", "'", '"', "=", "==",
        "=1", "a", "-x", "--cfg", "--cfg=all", "--multirun", "device=tpu", "device=cuda:x", "game=pong,boxing",
        "hydra.run.dir=x", "game@b=pong", "environment.image_size=1", "evaluation.episodes=0", "log_every=0",
        "checkpoint_every=0", "run_dir=/dev/null", "run_dir=/dev/null/x", f"run_dir={'a' * 300}",
        "run_dir=", "loop.replay_ratio=-1", "agent.learning_rate=true", "game=${seed}", "game=${nothing}",
        "seed=${seed}", "[" * 500, "game=" + "x" * 100_000, "threads=-1", "video=perhaps",
    ],
    "dmcontrol": [
        "task=cartpole", "task=none", "domain=cartpole", "domain=cartpole task_name=fly", "budget=7", "env_steps=-8",
        "env_steps=7", "task=walker_walk replay.window=5", "task=walker_walk agent.crop_size=200",
        "task=walker_walk environment.image_size=0", "task=walker_walk game=pong", "",
    ],
    "mwm": [
        "", "task=window_clsoe", "task=dmc_walker_wlak", "task=manip_", "task=rlbench_reach_target", "task=[reach]",
        "task=reach game=pong", "task=reach env=a:b", "task=reach suite=dmcontrol", "task=reach mwm=3",
        "task=reach mwm.encoder=null", "task=reach mwm.encoder.heads=3", "task=reach mwm.mask_ratio=1",
        "task=reach mwm.mask_ratio=0.99", "task=reach environment.image_size=60", "task=reach replay.window=9",
        "task=reach replay.shortest_window=300", "task=reach loop.order=overlapped", "task=reach env_steps=3",
        "task=reach loop.learning_starts=3", "task=reach replay.capacity=9", "task=reach world_model=dreamer",
        "task=reach mwm.world_model=dreamer", "task=reach +ablation=ratio_0.1", "task=reach auxiliary=mlr",
    ],
}  # fmt: skip
TASKS = {"atari": "game=pong", "dmcontrol": "task=walker_walk", "mwm": "task=reach"}
NASTY = [
    "nan", "inf", "-1", "0", "1e400", "null", "true", "''", "[]", "{}", "[[[[", "${x}", "\\", "\0", "\n", "é", "１",
    "x" * 5000, "0x10", "1_000", "9" * 5000, "-0", "1,2", "range(3)", "choice(1,2)", "!!python/object:os.system",
    "../..", "%s", "None",
]  # fmt: skip


def config(count: int, random: Random, scratch: Path) -> Iterator[Case]:
    """The scripts that read runs, the table, then made-up command lines, of which the valid ones are left out."""
    tables = [(name, settings_of(name, line)) for name, lines in WRONG.items() for line in lines]
    lines = itertools.chain(tables, iter(partial(made_up, random), None))
    done = 0
    with contextlib.chdir(scratch):
        for case in itertools.islice(wrong_runs(scratch), count):
            done += 1
            yield case
        for index, (suite, arguments) in enumerate(lines):
            if done >= count:
                return
            code, errors, seconds = refusal(partial(launch, COMMANDS[suite], found_valid, argv=arguments))
            if code == VALID and index >= len(tables):
                continue
            done += 1
            problem = "" if code == 2 else f"exit {code}"
            problem += one_line(errors) or (f"{seconds:.1f} s" if seconds > 2 else "")
            problem += f"wrote {os.listdir()}" if os.listdir() else ""
            yield Case("table" if index < len(tables) else "made up", problem and f"{arguments!r:.300}: {problem}")


VALID = 99


def settings_of(suite: str, line: str) -> list[str]:
    """Settings of a line of the table; a game is named where the line has none."""
    named = suite != "atari" or "game" in line
    return [*([] if named else [TASKS[suite]]), *line.split(" ")]


def found_valid(configuration) -> int:
    """Stands for training."""
    check_run(configuration)
    return VALID


def refusal(command: Callable[[], int]) -> tuple[object, str, float]:
    """Exit code, or the exception, with what went to the error stream and the processor's seconds."""
    errors, start = io.StringIO(), time.process_time()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            code = command()
        except (Exception, SystemExit) as error:
            code = repr(error)
    return code, errors.getvalue(), time.process_time() - start


def made_up(random: Random) -> tuple[str, list[str]]:
    suite = random.choice(list(COMMANDS))
    keys = list(COMMANDS[suite].keys())
    arguments = [TASKS[suite]]
    for _ in range(random.randrange(1, 3)):
        values = [*NASTY, str(random.uniform(-1e6, 1e6)), chr(random.randrange(1, 50_000))]
        argument = f"{random.choice(['', '', '', '+', '++', '~'])}{random.choice(keys)}={random.choice(values)}"
        if random.random() < 0.3:
            position = random.randrange(len(argument))
            argument = argument[:position] + random.choice("=.[]{}'\"$,: \t@/") + argument[position:]
        arguments.append(argument)
    return suite, arguments


def wrong_runs(scratch: Path) -> Iterator[Case]:
    """Answers of the scripts that read a run to something else."""
    folders = (str(scratch), "/dev/null", "nowhere", "a\0b", "a" * 300)
    for script, argument in itertools.product((evaluate, inspect_run), folders):
        code, errors, seconds = refusal(partial(script.main, [argument]))
        problem = ("" if code == 2 else f"exit {code}") + one_line(errors) + (f"{seconds:.1f} s" if seconds > 2 else "")
        yield Case("scripts", problem and f"{script.__name__} {argument!r}: {problem}")
