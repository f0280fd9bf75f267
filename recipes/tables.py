"""Tables of the papers, and tasks by the names that folders and tables have, for scripts that run many of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from atari.games import PAPER_GAMES
from dmcontrol.tasks import PAPER_TASKS, TASKS
from harness.command_line import check_choice, config_groups


@dataclass(frozen=True)
class Table:
    command: str  # of recipes.COMMANDS
    tasks: Sequence[str]
    length: Sequence[str]  # settings


TABLES = {
    "atari100k": Table("atari", PAPER_GAMES, ()),
    "dmcontrol100k": Table("dmcontrol", sorted(PAPER_TASKS), ("budget=100k",)),
    "dmcontrol500k": Table("dmcontrol", sorted(PAPER_TASKS), ("budget=500k",)),
}
TASK_KEYS = ("game", "task", "domain", "task_name")  # settings that choose a task of a suite


def task_settings(command: str, task: str) -> list[str]:
    """Settings that choose a task of a training script by its name in folders and tables. Raises ConfigError."""
    return {"atari": _game, "dmcontrol": _control_task}[command](task)


def _game(task: str) -> list[str]:
    return [f"game={task}"]


def _control_task(task: str) -> list[str]:
    """Settings of a file of configs/dmcontrol/task, or of any other task as domain_name. Raises ConfigError."""
    files = config_groups("dmcontrol")["task"]
    others = {f"{domain}_{name}": (domain, name) for domain, names in TASKS.items() for name in names}
    check_choice("task", task, [*files, *others], {})
    if task in files:
        return [f"task={task}"]
    domain, name = others[task]
    return [f"domain={domain}", f"task_name={name}"]
