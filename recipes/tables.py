"""Tables of the papers, and tasks by the names that folders and tables have, for scripts that run many of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from atari.games import PAPER_GAMES, game_settings
from dmcontrol.tasks import PAPER_TASKS, task_settings
from mwm.tasks import task_settings as mwm_settings


@dataclass(frozen=True)
class Table:
    command: str  # key of recipes.COMMANDS
    tasks: Sequence[str]
    length: Sequence[str]  # settings


TABLES = {
    "atari100k": Table("atari", PAPER_GAMES, ()),
    "dmcontrol100k": Table("dmcontrol", sorted(PAPER_TASKS), ("budget=100k",)),
    "dmcontrol500k": Table("dmcontrol", sorted(PAPER_TASKS), ("budget=500k",)),
}
# By command: settings that choose a task by its name.
TASK_SETTINGS = {"atari": game_settings, "dmcontrol": task_settings, "mwm": mwm_settings}
TASK_KEYS = ("game", "task", "domain", "task_name")  # settings that choose a task of a suite
