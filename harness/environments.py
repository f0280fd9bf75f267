"""The environments of an evaluation, stepped together: in this process, or spread over worker processes.

Gymnasium's AsyncVectorEnv has a process for each environment and steps all of them always. Here a hundred environments
share a few processes, each plays one episode, and those whose episode is over rest. Nothing here imports torch:
workers stay small.
"""

import ctypes
import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple, Self

import gymnasium
import numpy as np

from harness.worker import SPAWN, Worker

MakeEnvironment = Callable[[int], gymnasium.Env]  # an episode's number -> the environment that it is played in


class Outcome(NamedTuple):
    """Result of a step."""

    reward: float  # raw
    over: bool  # episode has ended
    columns: dict[str, float]  # further results of an episode that is over: its last step's info["columns"]


class LocalEnvironments:
    """Slots for environments of this process, each of which plays an episode. Use as a context manager.

    observations: uint8 [slots, ...], the newest one of each environment.
    """

    def __init__(self, make_environment: MakeEnvironment, observations: np.ndarray):
        self.observations = observations
        self._make = make_environment
        self._environments: dict[int, gymnasium.Env] = {}

    def start(self, episodes: dict[int, int]) -> None:
        """Makes and resets an environment in each slot of `episodes`, slot -> number; closes the earlier ones."""
        self._close()
        for slot, episode in episodes.items():
            self._environments[slot] = self._make(episode)
            self.observations[slot], _ = self._environments[slot].reset()

    def step(self, actions: dict[int, Any]) -> dict[int, Outcome]:
        """Steps the environments of some slots."""
        outcomes = {}
        for slot, action in actions.items():
            observation, reward, terminated, truncated, info = self._environments[slot].step(action)
            self.observations[slot] = observation
            over = bool(terminated or truncated)
            columns = info.get("columns", {}) if over else {}
            outcomes[slot] = Outcome(float(reward), over, {name: float(value) for name, value in columns.items()})
        return outcomes

    @property
    def filmed(self) -> gymnasium.Env:
        """The environment of slot 0."""
        return self._environments[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception) -> None:
        self._close()

    def _close(self) -> None:
        while self._environments:
            self._environments.popitem()[1].close()


class SpreadEnvironments:
    """LocalEnvironments spread over worker processes, which leave their observations in memory shared with this one.

    With `film`, the environment of slot 0 stays in this process, where it can be asked for pictures. Raises
    WorkerLost when a worker dies or takes longer than `timeout_seconds`, and whatever an environment raises.
    """

    def __init__(
        self,
        make_environment: MakeEnvironment,
        shape: tuple[int, ...],
        workers: int,
        timeout_seconds: float,
        film: bool,
    ):
        memory = SPAWN.RawArray(ctypes.c_uint8, math.prod(shape))
        self.observations = _observations(memory, shape)
        self._local = LocalEnvironments(make_environment, self.observations)
        self._here = (0,) if film else ()
        names = [f"environment worker {i}" for i in range(workers)]
        work = (timeout_seconds, _serve, make_environment, memory, shape)
        with ExitStack() as stack:
            self._workers = [stack.enter_context(Worker(name, *work)) for name in names]
            self._stack = stack.pop_all()

    def start(self, episodes: dict[int, int]) -> None:
        self._everywhere("start", episodes)

    def step(self, actions: dict[int, Any]) -> dict[int, Outcome]:
        return self._everywhere("step", actions)

    @property
    def filmed(self) -> gymnasium.Env:
        return self._local.filmed

    def __enter__(self) -> Self:
        self._stack.enter_context(self._local)
        return self

    def __exit__(self, *exception) -> None:
        self._stack.close()

    def _everywhere(self, request: str, by_slot: dict[int, Any]) -> dict[int, Outcome]:
        """Lets each worker do its share, all at the same time."""
        mine, shares = {}, [{} for _ in self._workers]
        for slot, argument in by_slot.items():
            share = mine if slot in self._here else shares[slot % len(shares)]
            share[slot] = argument
        asked = [
            (worker, share) for worker, share in zip(self._workers, shares, strict=True) if share or request == "start"
        ]
        for worker, share in asked:
            worker.send((request, share))
        outcomes = getattr(self._local, request)(mine) or {}
        for worker, _ in asked:
            outcomes |= worker.receive() or {}
        return outcomes


Environments = LocalEnvironments | SpreadEnvironments


def _serve(connection, make_environment: MakeEnvironment, memory, shape: tuple[int, ...]) -> None:
    with LocalEnvironments(make_environment, _observations(memory, shape)) as environments:
        while True:
            request, argument = connection.recv()
            connection.send(getattr(environments, request)(argument))


def _observations(memory, shape: tuple[int, ...]) -> np.ndarray:
    return np.frombuffer(memory, np.uint8).reshape(shape)
