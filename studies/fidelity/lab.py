"""Agents with fresh weights on random play, and their gradients, on which docs/fidelity.md is measured."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from auxiliaries.slot import Shared, whole_loss
from harness.recipe import Recipe, Spaces
from recipes import COMMANDS, load_recipe
from studies.play import play, random_player

SMALL = "preset=cpu"  # preset of short trainings unless another is named
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Sizes:
    """Sizes of the measurements."""

    seeds: int  # weights, masks and augmentations
    windows: int  # in a batch
    steps: int  # agent steps of random play, from which batches are sampled
    counted_steps: int  # agent steps of random play in each game, where transitions are counted
    updates: int  # in a short training
    draws: int  # noise, crops and masks


class Gradient(NamedTuple):
    loss: float
    encoder: Tensor  # flat
    norm: float  # over all that the loss trains


class Lab:
    """Agents of one suite, and a replay of random play, made on request.

    draw: (replay, windows, generator) to a batch with frames and actions.
    overrides: settings of all configurations, on top of `fidelity=released`.
    """

    def __init__(self, suite: str, draw: Callable, overrides: Sequence[str], sizes: Sizes):
        self.suite, self.sizes = suite, sizes
        self._draw, self._overrides = draw, list(overrides)
        self.seeds = range(1, sizes.seeds + 1)

    @cached_property
    def small(self) -> "Lab":
        """A lab with networks small enough to train."""
        chosen = any(override.startswith("preset=") for override in self._overrides)
        overrides = self._overrides if chosen else [*self._overrides, SMALL]
        return Lab(self.suite, self._draw, overrides, self.sizes)

    @cache  # noqa: B019 - a lab lives as long as the program
    def config(self, *overrides: str, fidelity: str = "released") -> Any:
        fixed = [f"fidelity={fidelity}", f"replay.capacity={self.sizes.steps}"]
        return COMMANDS[self.suite].resolve([*self._overrides, *fixed, *overrides])

    def paper(self, key: str) -> str:
        """The override that gives one key the paper's value."""
        return f"{key}={attrgetter(key)(self.config(fidelity='paper'))}"

    @cached_property
    def _recipe(self) -> Recipe:
        return load_recipe(self.config())

    @cached_property
    def environment(self) -> Any:
        return self._recipe.suite.make_environment(self.config(), 1, 0, True)

    @cached_property
    def replay(self) -> Any:
        return self.play(self.environment, self.config())

    def play(self, environment: Any, config: Any) -> Any:
        """A full replay of random actions."""
        replay = self._recipe.method.make_replay(config, Spaces.of(environment), CPU)
        loop = play(environment, random_player(environment, seed=1), replay)
        for _ in range(config.replay.capacity):
            loop.step()
        return replay

    def play_task(self, *overrides: str) -> Any:
        """A replay of another task, `sizes.counted_steps` long."""
        config = self.config(f"replay.capacity={self.sizes.counted_steps}", *overrides)
        return self.play(self._recipe.suite.make_environment(config, 1, 0, True), config)

    def agent(self, seed: int, *overrides: str) -> Any:
        """A fresh agent; one with the same seed draws the same weights, masks and augmentations."""
        return self._recipe.method.make_agent(self.config(f"seed={seed}", *overrides), Spaces.of(self.environment), CPU)

    def clips(self, seed: int) -> Any:
        return self._draw(self.replay, self.sizes.windows, torch.Generator().manual_seed(seed))

    @cache  # noqa: B019
    def mlr_gradient(self, seed: int, *overrides: str) -> Gradient:
        """The auxiliary loss of a fresh agent, without its weight in the objective."""
        agent = self.agent(seed, *overrides)
        loss = whole_loss(agent.auxiliary, self.clips(seed), Shared())[0].mean()
        loss.backward()
        return Gradient(loss.item(), flat_gradient(agent.encoder), norm(agent.trained_parameters()))

    def mlr_gradients(self, key: str) -> list[tuple[Gradient, Gradient]]:
        """Gradients by seed, as released and with the paper's value of one key."""
        return [(self.mlr_gradient(seed), self.mlr_gradient(seed, self.paper(key))) for seed in self.seeds]

    @property
    def batches(self) -> str:
        return f"{self.config().task}, {self.sizes.seeds} seeds x {self.sizes.windows} windows"


def flat_gradient(module: nn.Module) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in module.parameters()])


def norm(parameters: Iterable[nn.Parameter]) -> float:
    """Norm of the gradients that exist."""
    return float(nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None]))


def cosine(a: Tensor, b: Tensor) -> float:
    a, b = a.double(), b.double()
    return float(a @ b / (a.norm() * b.norm()))
