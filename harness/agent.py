"""An agent as the loop, checkpoints and evaluations see it."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from harness.config import ConfigError
from harness.optimizers import Adam, adam_parameters, adam_state, load_adam_state
from harness.seeding import Generators
from harness.streams import Side


class Agent(Protocol):
    """An agent that learns from a replay; a class inherits from it for the defaults.

    An agent whose updates are functions of tensors gives `cycle`, `begin_update`, `update_on_device`, `generators` and
    `optimizers`: its updates can be recorded, and their operations counted. Any other overrides `update`. The default
    of `state` holds `networks`, `auxiliary`, `optimizers`, `generators` and `exploration`.
    """

    auxiliary: Any = None  # its auxiliary loss (auxiliaries/slot.py), if it has one
    networks: nn.ModuleDict
    optimizers: dict[str, Adam]
    generators: Generators  # random numbers of the updates
    exploration: np.random.Generator
    cycle: Sequence[tuple] = ()  # further arguments of `update_on_device`, by update of a period
    acting: nn.Module  # the weights that a player needs
    side: Side | None = None  # stream for work beside other work of an update, where an agent has such work

    def act(self, observation: np.ndarray, step: int, first: bool) -> Any:
        """The action for an observation at agent step `step`; `first`: it begins an episode."""

    def update(self, replay: Any, step: int, kind: str) -> dict[str, Tensor]:
        """One update at agent step `step`; returns its metrics as 0-d tensors."""
        return self.update_on_device(replay, *self.begin_update(replay, step, kind))

    def begin_update(self, replay: Any, step: int, kind: str) -> tuple:
        """The host's share of an update; returns the further arguments of `update_on_device`."""

    def update_on_device(self, replay: Any, *variant: Any) -> dict[str, Tensor]:
        """The part of an update that is a function of tensors alone."""

    def random_streams(self) -> Iterator[torch.Generator]:
        """Every generator that an update may draw from."""
        yield from self.generators
        if self.auxiliary is not None:
            yield from self.auxiliary.generators

    def end_of_updates(self, step: int) -> dict[str, float]:
        """Follows the updates of agent step `step`; returns events by name, each worth a row of metrics."""
        return {}

    def fuse(self, seconds: Callable) -> list[str]:
        """Lets a GPU take several operations at once where that is faster; returns reasons against."""
        return []

    def compile(self) -> None:
        """Lets torch's compiler write the kernels of the networks."""
        raise ConfigError("compile=true: this method's networks are not compiled; use compile=false")

    @property
    def modules(self) -> list[nn.Module]:
        """The networks, and the modules of the auxiliary."""
        return [self.networks, *([] if self.auxiliary is None else [self.auxiliary.owned, self.auxiliary.targets])]

    def move_targets(self, place: str) -> None:
        """Lets the auxiliary move its targets if it does so at this point of an update."""
        if self.auxiliary is not None and self.auxiliary.moves_targets == place:
            self.auxiliary.update_targets()

    def trained_parameters(self) -> list[nn.Parameter]:
        """Parameters that any optimiser steps, each once."""
        return list(dict.fromkeys(p for optimizer in self.optimizers.values() for p in adam_parameters(optimizer)))

    def state(self) -> dict:
        """Nested dict of tensors and JSON values."""
        return {
            "networks": self.networks.state_dict(),
            "auxiliary": self.auxiliary.state() if self.auxiliary is not None else {},
            "optimizers": {name: adam_state(optimizer) for name, optimizer in self.optimizers.items()},
            "generators": self.generators.state(),
            "exploration": self.exploration.bit_generator.state,
        }

    def load_state(self, state: dict) -> None:
        """Takes over a `state()` in place."""
        self.networks.load_state_dict(state["networks"])
        if self.auxiliary is not None:
            self.auxiliary.load_state(state["auxiliary"])
        for name, optimizer in self.optimizers.items():
            load_adam_state(optimizer, state["optimizers"][name])
            optimizer.write_shadows()
        self.generators.load_state(state["generators"])
        self.exploration.bit_generator.state = state["exploration"]
