"""Meta-world and DMControl as suites of Masked World Models: units of a step, and what renders."""

import math
from importlib.metadata import version
from typing import Any

import gymnasium

from dmcontrol.environment import DMControlEnv
from dmcontrol.rendering import with_advice
from dmcontrol.scores import score_bound
from dmcontrol.suite import simulator
from harness.recipe import Suite, repeated_steps
from mwm.environments import make_environment
from mwm.scores import SCORES
from mwm.tasks import SUITE_PREFIX


def manifest(config: Any, environment: gymnasium.Env) -> dict:
    return {"renderer": renderer_of(environment)}


def metaworld_manifest(config: Any, environment: gymnasium.Env) -> dict:
    return {**manifest(config, environment), "metaworld": version("metaworld")}


def metaworld_simulator(config: Any) -> dict[str, str]:
    return {name: version(name) for name in ("mujoco", "metaworld")}


def describe(config: Any, environment: gymnasium.Env, device_type: str) -> list[str]:
    lines = [f"renderer     {with_advice(renderer_of(environment), device_type)}"]
    if not config.environment.shadows:
        lines.append("pictures     without shadows and reflections, unlike the released code's")
    return lines


def renderer_of(environment: gymnasium.Env) -> str:
    return environment.renderer if isinstance(environment, DMControlEnv) else environment.inner.renderer


def unbounded(task: str) -> float:
    """Contacts amplify rounding without a limit."""
    return math.inf


def pixels_score_bound(task: str) -> float:
    return score_bound(task.removeprefix(SUITE_PREFIX))


def make_scorer(config: Any, seed: int, index: int) -> gymnasium.Env:
    """An evaluation's environment that renders nothing."""
    return make_environment(config, seed, index, training=False, pictures=False)


METAWORLD = Suite(
    make_environment=make_environment,
    units=repeated_steps,
    manifest=metaworld_manifest,
    describe=describe,
    scores=SCORES,
    simulator=metaworld_simulator,
    score_bound=unbounded,
)
DMCONTROL_PIXELS = Suite(
    make_environment=make_environment,
    units=repeated_steps,
    manifest=manifest,
    describe=describe,
    simulator=simulator,
    make_scorer=make_scorer,
    score_bound=pixels_score_bound,
)
