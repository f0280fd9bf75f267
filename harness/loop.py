"""The training loop, one for every method: act, start the updates, step the environment, store."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from harness.agent import Agent
from harness.clock import Clock
from harness.config import require
from harness.errors import Miscounted, NotFinite
from harness.evaluation import Evaluate
from harness.means import MetricMeans
from harness.schedule import Schedule


@dataclass
class Parts:
    """A recipe's parts for the loop. Environment and replay have state() and load_state(state), as the agent has."""

    agent: Agent
    environment: Any  # a Gymnasium environment whose info holds raw_reward
    replay: Any  # begin_step(); store(observation, action, reward, terminated, truncated, next_observation, info); rows
    schedule: Schedule
    evaluate: Evaluate
    units: Callable[[int], dict[str, int]]  # agent steps -> agent_steps, env_steps, frames
    milestones: list[int]  # agent steps whose scores the paper's tables have, and the last one
    update: Callable[[Any, int, str], dict] | None = None  # a recording of the agent's updates in their place
    draw: Callable[[Path, int], list[Path]] | None = None  # folder, agent steps -> figures of an evaluation


@dataclass
class Position:
    """Position of a run: the loop's own memory."""

    step: int = 0  # agent steps stored
    updates: int = 0
    episodes: int = 0
    observation: np.ndarray | None = None
    first: bool = True  # observation begins an episode
    episode_return: float = 0.0  # raw reward of the running episode, across lives
    finished: list[float] = field(default_factory=list)  # returns of episodes that ended since the last log
    logged: list[int] = field(default_factory=lambda: [0, 0])  # steps and updates at the last log

    def count(self, raw_reward: float, ended: bool) -> None:
        """Adds a step's raw reward and, at an episode's end, counts the episode."""
        self.episode_return += float(raw_reward)
        if ended:
            self.finished.append(self.episode_return)
            self.episodes, self.episode_return = self.episodes + 1, 0.0

    def advance(self, observation: np.ndarray, first: bool) -> None:
        self.observation, self.first = observation, first
        self.step += 1

    def since_last_log(self) -> tuple[int, int]:
        steps, updates = self.step - self.logged[0], self.updates - self.logged[1]
        self.logged = [self.step, self.updates]
        return steps, updates

    def state(self) -> dict:
        counts = {key: value for key, value in vars(self).items() if key != "logged"}
        return counts | {"observation": np.array(self.observation)}

    def load_state(self, state: dict) -> None:
        vars(self).update(state)
        self.observation = np.asarray(self.observation)
        self.logged = [self.step, self.updates]  # rates count from the restart, as the clock does


class TrainingLoop:
    """Agent steps with their updates, from `position` on. It writes no files.

    order "overlapped": a step's updates start before the environment's step, and run beside it on a GPU.
    order "released": they come after the step is stored. A schedule with long phases needs this order: then each of
    a step's updates takes a call of `step` of its own, and the state is whole between any two calls.
    """

    def __init__(self, parts: Parts, order: str, position: Position | None = None):
        self.agent, self.environment, self.replay, self.schedule = (
            parts.agent, parts.environment, parts.replay, parts.schedule,
        )  # fmt: skip
        self._recorded = parts.update
        self.order = order
        self.position = position or Position()
        self.means, self.clock = MetricMeans(), Clock()
        self.events: dict[str, float] = {}  # events of the last step, each worth a row of metrics

    @property
    def stateful(self) -> dict[str, Any]:
        """The parts of a checkpoint."""
        return {name: getattr(self, name) for name in ("agent", "environment", "replay", "position", "means")}

    @property
    def updates_left(self) -> int:
        """Number of updates of the last stored step that are still to be made."""
        return self.schedule.total(self.position.step) - self.position.updates

    @property
    def updates_made(self) -> int | None:
        """Number of updates of the last stored step that are made; None where none is left."""
        return len(self.schedule.due(self.position.step - 1)) - self.updates_left if self.updates_left else None

    @property
    def whole_steps(self) -> int:
        """Number of agent steps that are stored and whose updates are all made."""
        return self.position.step - bool(self.updates_left)

    @property
    def where(self) -> str:
        """For people: the last agent step, and how many of its updates are made if not all are."""
        made, text = self.updates_made, f"agent step {self.position.step}"
        return text if made is None else f"{text} and {made} of its {made + self.updates_left} updates"

    def start(self) -> None:
        """Begins the first episode, except where a checkpoint is in the middle of one."""
        if self.position.observation is None:
            self.position.observation, _ = self.environment.reset()

    def step(self) -> None:
        """Takes an agent step with its updates. In a schedule with long phases, an update that is left comes first.

        Raises NotFinite for an action or a reward that holds a NaN or an infinity.
        """
        position, clock = self.position, self.clock
        self.events = {}
        if self.updates_left:
            self.update(position.step - 1, most=1)
            return
        with clock("act"):
            action = self.agent.act(position.observation, position.step, position.first)
        if not np.isfinite(action).all():
            raise NotFinite(f"the action of agent step {position.step} is {action}")
        self.replay.begin_step()
        if self.order == "overlapped":
            self.update(position.step)
        with clock("environment"):
            observation, reward, terminated, truncated, info = self.environment.step(action)
        if not math.isfinite(reward):
            raise NotFinite(f"the reward of agent step {position.step} is {reward}")
        with clock("store"):
            self.replay.store(position.observation, action, reward, terminated, truncated, observation, info)
        ended = terminated or truncated
        position.count(info["raw_reward"], ended)
        if ended:
            with clock("environment"):
                observation, _ = self.environment.reset()
        position.advance(observation, first=ended)
        if self.order == "released" and not (self.schedule.long_phases and self.updates_left):
            self.update(position.step - 1)

    def update(self, step: int, most: int | None = None) -> None:
        """Makes the updates of agent step `step` that are not made yet, `most` of them at most.

        The agent's `end_of_updates` follows the last one, also where none is due.

        Raises Miscounted if the schedule's total and the updates made do not agree.
        """
        due = self.schedule.due(step)
        left = self.schedule.total(step + 1) - self.position.updates
        if not 0 <= left <= len(due):
            raise Miscounted(f"{left} of the {len(due)} updates of agent step {step} are left")
        for kind in due[len(due) - left :][:most]:
            update = self._recorded or self.agent.update
            with self.clock("update"):
                self.means.add(update(self.replay, step, kind))
            self.position.updates += 1
            left -= 1
        if left == 0:
            self.events = self.agent.end_of_updates(step)


def require_order(schedule: Schedule, order: str) -> None:
    """Raises ConfigError for a schedule with long phases in the order that cannot be stopped inside one."""
    require(
        order == "released" or not schedule.long_phases,
        f"loop.order={order}: this method's long phases of updates need loop.order=released",
    )
