"""Play without learning, through the training loop."""

from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np

from harness.agent import Agent
from harness.evaluation import Player
from harness.loop import TrainingLoop
from harness.schedule import ReplayRatio

NO_UPDATES = ReplayRatio(learning_starts=0, ratio=0.0)


class Performer(Agent):
    """An agent that acts as a player says, and never learns."""

    def __init__(self, player: Player):
        self._player = player

    def act(self, observation: np.ndarray, step: int, first: bool) -> Any:
        (action,) = self._player(observation[None], np.array([first]))
        return action


def play(environment: gymnasium.Env, player: Player, replay: Any) -> TrainingLoop:
    """A loop whose `step` takes one agent step and stores it in `replay`."""
    parts = {"agent": Performer(player), "environment": environment, "replay": replay, "schedule": NO_UPDATES}
    loop = TrainingLoop(SimpleNamespace(**parts, update=None), "overlapped")
    loop.start()
    return loop


def random_player(environment: gymnasium.Env, seed: int) -> Player:
    """Uniform actions."""
    environment.action_space.seed(seed)
    return lambda observations, first: [environment.action_space.sample()]
