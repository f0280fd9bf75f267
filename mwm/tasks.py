"""Names of Masked World Models' tasks, which the command line, the environments and score files share.

Nothing here imports a simulator: a misspelt name must be refused before the slow imports start.
"""

from functools import cache
from importlib.util import find_spec

from dmcontrol.tasks import named_tasks
from harness.config import ConfigError, require
from harness.messages import advice

METAWORLD_NAMES = """
    assembly basketball bin_picking box_close button_press button_press_topdown button_press_topdown_wall
    button_press_wall coffee_button coffee_pull coffee_push dial_turn disassemble door_close door_lock door_open
    door_unlock drawer_close drawer_open faucet_close faucet_open hammer hand_insert handle_press handle_press_side
    handle_pull handle_pull_side lever_pull peg_insert_side peg_unplug_side pick_out_of_hole pick_place pick_place_wall
    plate_slide plate_slide_back plate_slide_back_side plate_slide_side push push_back push_wall reach reach_wall
    shelf_place soccer stick_pull stick_push sweep sweep_into window_close window_open
"""
METAWORLD_TASKS = tuple(METAWORLD_NAMES.split())
MANIPULATION_NAMES = """
    lift_brick lift_large_box place_brick place_cradle reach_duplo reach_site reassemble_3_bricks_fixed_order
    reassemble_5_bricks_random_order stack_2_bricks stack_2_bricks_moveable_base stack_2_of_3_bricks_random_order
    stack_3_bricks stack_3_bricks_random_order
"""
MANIPULATION_TASKS = tuple(MANIPULATION_NAMES.split())  # names in dm_control
SUITE_PREFIX, MANIPULATION_PREFIX, RLBENCH_PREFIX = "dmc_", "manip_", "rlbench_"


@cache
def tasks() -> tuple[str, ...]:
    """Every name that a run may have."""
    suite = (SUITE_PREFIX + name for name in named_tasks())
    return (*METAWORLD_TASKS, *suite, *(MANIPULATION_PREFIX + name for name in MANIPULATION_TASKS))


def require_task(task: str) -> None:
    """Raises ConfigError, with what to do, unless `task` is a name whose simulator is installed."""
    require(
        not task.startswith(RLBENCH_PREFIX),
        f"task={task}: RLBench needs CoppeliaSim, which no package index has; choose a task of Meta-world or DMControl",
    )
    if task not in tasks():
        others = "choose one of Meta-world, such as window_close, or of DMControl, such as dmc_cartpole_balance"
        raise ConfigError(f"no task named '{task}'; {advice(task, tasks(), others)}")
    require(
        task not in METAWORLD_TASKS or find_spec("metaworld") is not None,
        f"task={task} needs the package metaworld: pip install 'metaworld>=3.1.1,<3.2'",
    )


def task_settings(task: str) -> list[str]:
    """Settings that choose a task by its name. Raises ConfigError."""
    require_task(task)
    return [f"task={task}"]
