"""DMControl as a suite: units of a step, scores, and what renders."""

from importlib.metadata import version

from dmcontrol.config import DMControlConfig
from dmcontrol.environment import DMControlEnv, make_environment
from dmcontrol.rendering import with_advice
from dmcontrol.scores import BUDGETS, SCORES, score_bound
from harness.recipe import Suite, repeated_steps
from harness.report.published import label_of


def manifest(config: DMControlConfig, environment: DMControlEnv) -> dict:
    return {"domain": config.domain, "task_name": config.task_name, "renderer": environment.renderer}


def describe(config: DMControlConfig, environment: DMControlEnv, device_type: str) -> list[str]:
    return [f"renderer     {with_advice(environment.renderer, device_type)}"]


def simulator(config: DMControlConfig) -> dict[str, str]:
    return {name: version(name) for name in ("mujoco", "dm_control")}


def references(config: DMControlConfig) -> dict[str, float]:
    """The published scores of this setting; there are none of other sizes than the paper's."""
    if config.preset != "full":
        return {}
    return {
        f"published {label_of(config.auxiliary)} at {budget}": score
        for budget, score in SCORES.means_of(config.auxiliary, config.task).items()
        if config.env_steps >= BUDGETS[budget]
    }


def milestones(config: DMControlConfig) -> list[int]:
    """Agent steps at the budgets of the published tables and at the end."""
    steps = {min(budget, config.env_steps) // config.environment.action_repeat for budget in BUDGETS.values()}
    return sorted(steps | {config.agent_steps})


def make_scorer(config: DMControlConfig, seed: int, index: int) -> DMControlEnv:
    """An evaluation's environment that renders nothing."""
    return make_environment(config, seed, index, training=False, pictures=False)


DMCONTROL = Suite(
    make_environment=make_environment,
    units=repeated_steps,
    references=references,
    milestones=milestones,
    manifest=manifest,
    describe=describe,
    simulator=simulator,
    make_scorer=make_scorer,
    score_bound=score_bound,
)
