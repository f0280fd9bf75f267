"""Progress for people: a bar on a terminal, plain lines in a log file."""

from datetime import timedelta
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

UNKNOWN = "-:--:--"


class RunProgress:
    """Steps, ETA, rates and the last score of a run. Use as a context manager.

    total, completed: in agent steps. updates, updates_made: in updates. Where a run makes updates, the time left
    counts them: steps without updates are so fast that they say nothing of the rest.
    """

    def __init__(self, total: int, updates: int, console: Console, completed: int = 0, updates_made: int = 0):
        self._console, self._total, self._updates = console, total, updates
        counts = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn())
        notes = (TextColumn("{task.fields[unit]}  ETA"), Remaining(), TextColumn("{task.fields[note]}"))
        self._bar = Progress(
            *counts, *notes, console=console, disable=not console.is_terminal, speed_estimate_period=120
        )

        def add_task(name: str, unit: str, total: int, completed: int = 0, visible: bool = False):
            return self._bar.add_task(
                name, total=total, completed=completed, visible=visible, unit=unit, note="", timed=None
            )

        self._steps = add_task("train", "agent steps", total, completed, visible=total > 0)
        self._phase = add_task("update", "updates", updates, updates_made)
        self._evaluation = add_task("evaluate", "episodes", 1)
        if updates:
            self._bar.update(self._steps, timed=self._bar.tasks[1])

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *exception) -> None:
        self._bar.stop()

    def advance(self, completed: int, updates_made: int, in_a_phase: bool = False) -> None:
        """Shows how far training is; inside a long phase of updates, where no step ends, also their number."""
        self._bar.update(self._phase, completed=updates_made, visible=in_a_phase)
        self._bar.update(self._steps, completed=completed)

    def evaluation(self, finished: int, episodes: int) -> None:
        """Shows how far an evaluation is while it runs."""
        if self._bar.tasks[self._evaluation].finished:  # an earlier one, whose time is not this one's
            self._bar.reset(self._evaluation)
        self._bar.update(self._evaluation, completed=finished, total=episodes, visible=finished < episodes)

    def note(self, row: dict, score: float | None) -> None:
        """Shows a row of metrics and the last score beside the bar, or as one line where there is no terminal."""
        text = _rates(row, score)
        self._bar.update(self._steps, note=text)
        if not self._console.is_terminal:
            self._console.print(f"{row['agent_steps']}/{self._total} agent steps  ETA {self._left(row)}  {text}")

    def _left(self, row: dict) -> timedelta | str:
        left, rate = self._total - row["agent_steps"], row["time/agent_steps_per_second"]
        if self._updates:
            left, rate = self._updates - row["updates"], row["time/updates_per_second"]
        return timedelta(seconds=round(left / rate)) if rate else UNKNOWN


class Remaining(TimeRemainingColumn):
    """The time that is left, by the task `timed` where a task has one."""

    def render(self, task: Task) -> Text:
        return super().render(task.fields["timed"] or task)


def _rates(row: dict, score: float | None) -> str:
    rates = f"{row['time/agent_steps_per_second']:.1f} steps/s  {row['time/updates_per_second']:.1f} updates/s"
    if row["train/episode_return"] is not None:
        rates += f"  episode return {row['train/episode_return']:.1f}"
    return rates if score is None else f"{rates}  last score {score:.1f}"
