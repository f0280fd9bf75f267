"""Schedule of MWM's updates: a long pretraining when the random steps are over, then both kinds every few steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from mwm.config import KINDS, ScheduleConfig


@dataclass(frozen=True)
class Rounds:
    """The pretraining belongs to the last random step, `learning_starts` - 1.

    It begins with an update of each kind, goes on with the autoencoder's alone, and ends with one of each kind: in all
    `pretraining` + 1 and 2. From then on both kinds come once every `every` steps, at the "first" or the "last" of
    them. Source: released code, where steps count from 1.
    """

    learning_starts: int
    schedule: ScheduleConfig
    update_at: str
    kinds: tuple[str, ...] = KINDS  # kinds of updates of the world model

    long_phases = True

    def due(self, step: int) -> Sequence[str]:
        if step == self.learning_starts - 1:
            return self.pretraining
        return self.kinds if step >= self.learning_starts and (step - self._first) % self.schedule.every == 0 else ()

    def total(self, steps: int) -> int:
        if steps < self.learning_starts:
            return 0
        rounds = max(0, -(-(steps - self._first) // self.schedule.every))
        return len(self.pretraining) + len(self.kinds) * rounds

    @property
    def _first(self) -> int:
        """Step of the first round after the pretraining."""
        return self.learning_starts + (self.schedule.every - 1) * (self.update_at == "last")

    @cached_property
    def pretraining(self) -> tuple[str, ...]:
        every = KINDS + ("autoencoder",) * (self.schedule.pretraining - 1) + KINDS
        return tuple(kind for kind in every if kind in self.kinds)
