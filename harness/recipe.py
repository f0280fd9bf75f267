"""A recipe pairs a suite with a method: all that sets one run apart from another.

Worker processes import these functions from their modules; that of `make_environment` does without torch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium

from harness.report.published import SuiteScores

if TYPE_CHECKING:  # playing episodes again needs a suite and no torch
    import torch

    from harness.evaluation import Player
    from harness.schedule import Schedule


@dataclass(frozen=True)
class Spaces:
    """Spaces of an environment's observations and actions."""

    observation: gymnasium.spaces.Box
    action: gymnasium.Space

    @classmethod
    def of(cls, environment: gymnasium.Env) -> "Spaces":
        return cls(environment.observation_space, environment.action_space)


def nothing(*arguments: Any) -> dict:
    return {}


def exact(task: str) -> float:
    return 0.0


def last_step(config: Any) -> list[int]:
    return [config.agent_steps]


def repeated_steps(config: Any, agent_steps: int) -> dict[str, int]:
    """Units of a suite whose agent step repeats its action for `action_repeat` environment steps and shows a frame."""
    env_steps = agent_steps * config.environment.action_repeat
    return {"agent_steps": agent_steps, "env_steps": env_steps, "frames": agent_steps}


@dataclass(frozen=True)
class Suite:
    """Tasks, their environments, and what a score means. A process of its own evaluates, so no function is a lambda."""

    make_environment: Callable[..., gymnasium.Env]  # configuration, seed, episode, training: bool
    units: Callable[[Any, int], dict[str, int]]  # configuration, agent steps -> agent_steps, env_steps, frames
    manifest: Callable[[Any, gymnasium.Env], dict]  # identity of emulator or physics
    describe: Callable[[Any, gymnasium.Env, str], list[str]]  # configuration, environment, kind of device -> lines
    columns: Callable[[Any, float], dict[str, float]] = nothing  # configuration, score -> evaluation columns
    references: Callable[[Any], dict[str, float]] = nothing  # scores to compare with, by name
    milestones: Callable[[Any], list[int]] = last_step  # agent steps of the published tables' scores, and the last
    scores: SuiteScores | None = None  # set for a curve of another measure than the score, or with published curves
    simulator: Callable[[Any], dict[str, str]] = nothing  # versions and files here that decide a score, by name
    make_scorer: Callable[[Any, int, int], gymnasium.Env] | None = None  # an evaluation's environment without pictures
    # A task's largest difference of an episode's score on another simulator or kind of CPU.
    score_bound: Callable[[str], float] = exact


@dataclass(frozen=True)
class Method:
    """Agent, replay and player."""

    make_agent: "Callable[[Any, Spaces, torch.device], Any]"
    make_replay: "Callable[[Any, Spaces, torch.device], Any]"
    make_player: "Callable[[Any, Path, int, torch.device], Player]"  # configuration, weights, seed, device
    make_schedule: "Callable[[Any], Schedule]"
    load_trained: "Callable[[Any, Path, torch.device], Any]"  # the trained agent for other code
    describe: Callable[[Any, Any], list[str]]  # configuration, agent -> lines
    # Configuration, agent, replay, folder, agent steps -> figures that every evaluation comes with.
    draw: Callable[[Any, Any, Any, Path, int], list[Path]] | None = None


@dataclass(frozen=True)
class Recipe:
    suite: Suite
    method: Method
