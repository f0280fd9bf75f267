"""The tasks of the DeepMind control suite by domain; the command line and the suite share these names."""

from harness.command import config_groups
from harness.config import ConfigError
from harness.messages import advice

TASKS = {
    "acrobot": ("swingup", "swingup_sparse"),
    "ball_in_cup": ("catch",),
    "cartpole": ("balance", "balance_sparse", "swingup", "swingup_sparse", "two_poles", "three_poles"),
    "cheetah": ("run",),
    "dog": ("stand", "walk", "trot", "run", "fetch"),
    "finger": ("spin", "turn_easy", "turn_hard"),
    "fish": ("upright", "swim"),
    "hopper": ("stand", "hop"),
    "humanoid": ("stand", "walk", "run", "run_pure_state"),
    "humanoid_CMU": ("stand", "walk", "run"),
    "manipulator": ("bring_ball", "bring_peg", "insert_ball", "insert_peg"),
    "pendulum": ("swingup",),
    "point_mass": ("easy", "hard"),
    "quadruped": ("walk", "run", "escape", "fetch"),
    "reacher": ("easy", "hard"),
    "stacker": ("stack_2", "stack_4"),
    "swimmer": ("swimmer6", "swimmer15"),
    "walker": ("stand", "walk", "run"),
}

UNBOUNDED = ("lqr",)  # linear quadratic regulators: their actions have no bounds and their episodes no time limit

# Tasks of DMControl-100k and -500k, with settings of their own in configs/dmcontrol/task/.
PAPER_TASKS = ("finger_spin", "cartpole_swingup", "reacher_easy", "cheetah_run", "walker_walk", "ball_in_cup_catch")


def task_settings(task: str) -> list[str]:
    """Settings that choose a task by its name in folders and tables. Raises ConfigError."""
    require_named(task)
    if task in config_groups("dmcontrol")["task"]:
        return [f"task={task}"]
    domain, name = named_tasks()[task]
    return [f"domain={domain}", f"task_name={name}"]


def require_task(domain: str, task_name: str) -> None:
    """Raises ConfigError, with the nearest name if there is one, unless the suite has this task."""
    require_domain(domain)
    if task_name not in TASKS[domain]:
        raise ConfigError(f"{domain} has no task named '{task_name}'; {advice(task_name, TASKS[domain])}")


def require_domain(domain: str) -> None:
    """Raises ConfigError, with the nearest name if there is one, unless the suite has this domain."""
    if domain in UNBOUNDED:
        raise ConfigError(f"{domain} has no bounds on its actions and no time limit: choose another, such as cartpole")
    if domain not in TASKS:
        raise ConfigError(f"no domain named '{domain}'; {advice(domain, TASKS)}")


def require_named(task: str) -> None:
    """Raises ConfigError, with the nearest name if there is one, unless the suite has the task DOMAIN_NAME."""
    if task not in named_tasks():
        raise ConfigError(f"no task named '{task}'; {advice(task, named_tasks())}")


def named_tasks() -> dict[str, tuple[str, str]]:
    """Domain and name of each task, by its name in folders and tables."""
    return {f"{domain}_{name}": (domain, name) for domain, names in TASKS.items() for name in names}
