"""List the runs of a group of ablations: python scripts/ablation.py group=NAME benchmark=NAME tasks=A,B seeds=1,2,3

Nothing is trained. Each run is printed with what it changes against the base, and the command that trains it is
`python scripts/train_<benchmark>.py` with its overrides. The groups are in configs/ablation_groups.yaml.

Settings:
  group=mask_ratio        one of the groups
  benchmark=atari         atari or dmcontrol
  tasks=pong,boxing       games, or tasks of DMControl such as finger_spin
  seeds=1,2,3             the same in every arm
  arms=ratio_0.1          some of the group's arms; by default all
  key=value               any further setting is one of all runs: preset=cpu, fidelity=paper, ...

Options:
  --json FILE             write the runs to FILE as well

Examples:
  python scripts/ablation.py group=mask_ratio benchmark=atari tasks=pong,boxing seeds=1,2,3
  python scripts/ablation.py group=tau benchmark=dmcontrol tasks=finger_spin seeds=1 preset=cpu --json runs/tau.json
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from harness.command_line import Command, Options, check_choice, refuse, shorten
from harness.config import ConfigError, require
from harness.sweeps.ablations import Group, choose_arms, expand, read_groups
from scripts.benchmarks import COMMANDS, TASK_KEYS

NEEDED = ("group", "benchmark", "tasks", "seeds")
NOT_OF_ALL = {"seed": "seeds", "game": "tasks", "task": "tasks", "domain": "tasks", "task_name": "tasks"}
MOST_SEEDS, SEED_DIGITS = 10_000, 9


def main(arguments: list[str] | None = None) -> int:
    parser = Options(__doc__)
    parser.add_argument("settings", nargs="*", metavar="key=value")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the runs there too")
    try:
        options = parser.parse_intermixed_args(arguments)
        listed = list_runs(options.settings)
        if options.json:
            options.json.write_text(json.dumps(listed, indent=2) + "\n")
    except ConfigError as error:
        return refuse(error)
    except OSError as error:
        return refuse(ConfigError(f"--json {options.json} cannot be written: {error.strerror}"))
    print(table(listed["runs"]))
    return 0


def list_runs(settings: list[str]) -> dict:
    """The manifest of a group; raises ConfigError for what does not exist or cannot run."""
    own, common = read_settings(settings)
    group, command, tasks = choose_group(own)
    runs = expand(group, command, tasks, read_seeds(own), common)
    return {
        "group": own["group"],
        "benchmark": own["benchmark"],
        "base": group.base,
        "together": group.together,
        "runs": [asdict(run) for run in runs],
    }


def choose_group(own: dict[str, str]) -> tuple[Group, Command, dict[str, list[str]]]:
    """The group with the arms asked for, its benchmark's command, and the settings of each task. Raises ConfigError."""
    groups = read_groups()
    check_choice("group", own["group"], list(groups), {})
    check_choice("benchmark", own["benchmark"], list(COMMANDS), {})
    group = groups[own["group"]]
    if "arms" in own:
        group = choose_arms(group, names(own, "arms"))
    key = TASK_KEYS[own["benchmark"]]
    return group, COMMANDS[own["benchmark"]], {task: [f"{key}={task}"] for task in names(own, "tasks")}


def read_settings(settings: list[str]) -> tuple[dict[str, str], list[str]]:
    """What this script reads itself, by name, and the settings of all runs."""
    own, common = {}, []
    for setting in settings:
        name, equals, value = setting.partition("=")
        require(bool(equals), f"cannot read '{setting}': settings are written key=value, --help shows them")
        require(name not in own, f"{name} is given twice")
        require(name not in NOT_OF_ALL, f"{name} is decided by {NOT_OF_ALL.get(name)}=A,B")
        if name in (*NEEDED, "arms"):
            own[name] = value
        else:
            common.append(setting)
    missing = [name for name in NEEDED if name not in own]
    require(not missing, f"{', '.join(missing)} must be given: --help shows an example")
    return own, common


def names(own: dict[str, str], key: str) -> list[str]:
    found = own[key].split(",")
    require(
        all(found) and len(set(found)) == len(found),
        f"{key}={shorten(own[key])} must be different names with commas between",
    )
    return found


def read_seeds(own: dict[str, str]) -> list[int]:
    listed, given = names(own, "seeds"), f"seeds={shorten(own['seeds'])}"
    require(all(seed.isdecimal() for seed in listed), f"{given} must be integers with commas between")
    require(max(map(len, listed)) <= SEED_DIGITS, f"{given}: an integer of seeds= has at most {SEED_DIGITS} digits")
    require(len(listed) <= MOST_SEEDS, f"{given} are {len(listed)}: give at most {MOST_SEEDS:,}")
    seeds = [int(seed) for seed in listed]
    require(len(set(seeds)) == len(seeds), f"{given} must be different integers")
    return seeds


def table(runs: list[dict]) -> str:
    rows = [("run", "changes", "run_dir"), *((run["name"], changes(run), run["run_dir"]) for run in runs)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join([*lines, f"{len(runs)} runs"])


def changes(run: dict) -> str:
    return ", ".join(f"{key}: {before} -> {after}" for key, (before, after) in run["changed"].items())


if __name__ == "__main__":
    sys.exit(main())
