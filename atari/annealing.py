"""n-step and discount that change over the updates since the last reset (Schwarzer et al. 2023).

Shapes: `m` the largest n.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from atari.config import AgentConfig


@dataclass(frozen=True)
class Horizon:
    """n and discount of an update. The host fills them in place; shapes of an update do not depend on them."""

    longest: int  # m
    n: Tensor  # int64 []
    discount: Tensor  # float64 []

    def fill(self, config: AgentConfig, cycle_updates: int) -> None:
        self.n.fill_(n_step_at(config, cycle_updates))
        self.discount.fill_(discount_at(config, cycle_updates))

    def counted(self, fewer: int = 0) -> Tensor:
        """bool [m, 1], True for the first n - `fewer` steps."""
        return (torch.arange(self.longest, device=self.n.device) < self.n - fewer).unsqueeze(1)

    def discounts(self) -> Tensor:
        """float32 [m]: 1, discount, ... for n steps, then zeros."""
        powers = self.discount ** torch.arange(self.longest, device=self.n.device)
        return powers.float() * self.counted().squeeze(1)

    def bootstrap(self) -> Tensor:
        """float32 [], the discount of the state after n steps."""
        return (self.discount**self.n).float()


def make_horizon(config: AgentConfig, device: torch.device) -> Horizon | None:
    """None where both stay as configured."""
    if config.anneal_updates == 0:
        return None
    n, discount = (torch.zeros((), dtype=dtype, device=device) for dtype in (torch.int64, torch.float64))
    return Horizon(config.longest_n_step, n, discount)


def n_step_at(config: AgentConfig, cycle_updates: int) -> int:
    """Geometric from the initial to the final n, rounded half to even."""
    initial = config.n_step if config.n_step_initial is None else config.n_step_initial
    return round(initial * (config.n_step / initial) ** share(config, cycle_updates))


def discount_at(config: AgentConfig, cycle_updates: int) -> float:
    """Geometric in 1 - discount."""
    initial = config.discount if config.discount_initial is None else config.discount_initial
    return 1 - (1 - initial) * ((1 - config.discount) / (1 - initial)) ** share(config, cycle_updates)


def share(config: AgentConfig, cycle_updates: int) -> float:
    """Share of the annealing that is over, 0 to 1."""
    return min(cycle_updates / config.anneal_updates, 1.0)
