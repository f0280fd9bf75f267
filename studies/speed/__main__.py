"""Measure the speed of training on this machine: python -m studies.speed atari|dmcontrol|mwm [key=value ...]

Prints a table: an update and its parts, agent steps with the environment, the environment alone, evaluation, and what
the machine's own matrix product and memory reach in the same process. Further settings are those of the training
scripts, such as precision=bf16, capture=off, threads=1; DMControl's task is cartpole_swingup unless one is named,
Masked World Models' window_close.
Meaning of the numbers: docs/performance.md.

Examples:
  python -m studies.speed atari --size full --auxiliary mlr --repeats 20 --json atari.json
  python -m studies.speed dmcontrol --size quick precision=bf16 task=walker_walk
  python -m studies.speed atari --size tiny --profile trace.json    # for chrome://tracing or ui.perfetto.dev
  python -m studies.speed mwm --size cpu
  python -m studies.speed atari --deterministic     # on a GPU: what updates that repeat bit for bit cost
  python -m studies.speed atari --against precision=bf16 --against replay.window=8      # updates of these beside it
"""

import argparse
import json
import os
import sys
from pathlib import Path

from harness.command_line import Options, at_least
from harness.config import ConfigError, require
from harness.exit_codes import DISK_FAILED, DONE
from harness.files import CONFIGS
from harness.messages import complain, refuse
from harness.overrides import check_single
from recipes import COMMANDS, load_recipe

PROGRAM = "python -m studies.speed"
OPTIONS = {"preset": "--size", "auxiliary": "--auxiliary"}
TASKS = {"atari": "game=pong", "dmcontrol": "task=cartpole_swingup", "mwm": "task=window_close"}
REPEATABLE = "deterministic=true"


def main(arguments: list[str] | None = None) -> int:
    parser = Options(__doc__, PROGRAM)
    parser.add_argument("suite", choices=list(TASKS))
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--size", choices=("tiny", "quick", "cpu", "full"), default="full", help="the preset")
    parser.add_argument("--auxiliary", help="mlr unless named, and none for mwm; none: the Baseline")
    parser.add_argument("--repeats", type=at_least(1), default=5, help="timings of an update")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each of the other measurements")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    parser.add_argument("--profile", type=Path, help="write a trace of some updates to this file")
    parser.add_argument("--deterministic", action="store_true", help="on a GPU: --against deterministic=true")
    parser.add_argument("--against", action="append", default=[], metavar="key=value", help="time updates of this too")
    try:
        options = parser.parse_intermixed_args(arguments)
        require(options.seconds > 0, f"--seconds={options.seconds} must be above 0")
        for name in ("json", "profile"):
            file = getattr(options, name)
            require(file is None or file.absolute().parent.is_dir(), f"--{name} {file}: there is no such folder")
            require(file is None or not file.is_dir(), f"--{name} {file} is a folder: name a file")
        options.auxiliary = options.auxiliary or ("none" if options.suite == "mwm" else "mlr")
        config, others = compose(options), {each: compose(options, each) for each in options.against}
        if options.deterministic:
            others[REPEATABLE] = compose(options, REPEATABLE)
        run(options, config, others, [PROGRAM, *(sys.argv[1:] if arguments is None else arguments)])
    except ConfigError as error:
        return refuse(error)
    except OSError as error:
        complain(str(error))
        return DISK_FAILED
    return DONE


def compose(options: argparse.Namespace, *further: str):
    """The configuration, with `further` settings; raises ConfigError."""
    overrides = [*options.overrides, *further]
    keys = [override.split("=")[0] for override in overrides]
    for key in keys:
        require(key not in OPTIONS, f"{key} is an option here: write {OPTIONS.get(key)}")
    check_single(overrides)
    named = {"game", "task", "domain", "env"} & set(keys)
    settings = [f"preset={options.size}", f"auxiliary={options.auxiliary}", *([] if named else [TASKS[options.suite]])]
    return COMMANDS[options.suite].resolve([*settings, *overrides])


def run(options: argparse.Namespace, config, others: dict, command: list[str]) -> None:
    from harness.parts import choose_device  # imports torch
    from harness.run_folder import environment
    from studies.speed.measure import measure
    from studies.speed.table import show

    machine = {"load_before": os.getloadavg()[0]}
    if choose_device(config.device).type == "cpu" and others.pop(REPEATABLE, None):
        print("deterministic=true changes nothing on a CPU: updates repeat bit for bit anyway")
    recipe = load_recipe(config)
    measured = measure(config, recipe, options.repeats, options.seconds, others, options.profile)
    result = {
        "suite": config.suite,
        "task": config.task,
        "size": options.size,
        "auxiliary": config.auxiliary,
        "precision": config.precision,
        "command": " ".join(command),
        "machine": environment() | machine,
        **measured,
    }
    show(result, goals(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


def goals(result: dict) -> dict[str, float]:
    """Floor and goal of this update on this GPU; empty for any other."""
    import yaml

    if (result["size"], result["auxiliary"]) != ("full", "mlr") or result["device"] != "cuda":
        return {}
    known = yaml.safe_load((CONFIGS / "gpu_goals.yaml").read_text())
    return next((known[name][result["suite"]] for name in known if name in result["machine"]["gpu"]), {})


if __name__ == "__main__":
    sys.exit(main())
