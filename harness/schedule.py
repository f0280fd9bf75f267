"""Schedules: which updates belong to an agent step. The loop, its counts and the progress bar read the same one."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class Schedule(Protocol):
    """Kinds are names that the agent's `update` understands."""

    long_phases: bool  # a step's updates may be so many that a run saves and stops between them

    def due(self, step: int) -> Sequence[str]:
        """Kinds of the updates that belong to agent step `step`, counted from 0, in their order."""
        ...

    def total(self, steps: int) -> int:
        """Number of updates in the first `steps` agent steps: the sum of `len(due(step))`."""
        ...


def count_kinds(schedule: Schedule, steps: int) -> Counter[str]:
    """Number of updates of each kind in the first `steps` agent steps."""
    return Counter(kind for step in range(steps) for kind in schedule.due(step))


@dataclass(frozen=True)
class ReplayRatio:
    """`ratio` updates of one kind per agent step, from step `learning_starts` on."""

    learning_starts: int
    ratio: float

    long_phases = False

    def due(self, step: int) -> Sequence[str]:
        return ("update",) * (self.total(step + 1) - self.total(step))

    def total(self, steps: int) -> int:
        return int(max(steps - self.learning_starts, 0) * self.ratio)


def make_ratio(config: Any) -> ReplayRatio:
    return ReplayRatio(config.loop.learning_starts, config.loop.replay_ratio)
