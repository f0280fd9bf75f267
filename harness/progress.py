"""What a person sees while a run goes on: a progress bar on a terminal, plain lines in a log file."""

from datetime import timedelta
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

UNKNOWN = "-:--:--"


class RunProgress:
    """Steps, ETA, rates and the last score of a run. Use as a context manager.

    updates_from: the step from which on there are updates; earlier ones are so fast that they say nothing of the rest.
    """

    def __init__(self, total: int, completed: int, console: Console, updates_from: int = 0):
        self._console = console
        self._known_from = updates_from if updates_from < total else 0  # the time left
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}  ETA"),
            Remaining(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not console.is_terminal,
            speed_estimate_period=120,
        )
        self._task = self._bar.add_task(
            "train",
            total=total,
            completed=completed,
            visible=total > 0,
            unit="agent steps",
            note="",
            known_from=self._known_from,
        )
        self._evaluation = self._bar.add_task(
            "evaluate", total=1, visible=False, unit="episodes", note="", known_from=0
        )
        self._total = total

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *exception) -> None:
        self._bar.stop()

    def step(self, completed: int) -> None:
        if completed == self._known_from:
            self._bar.reset(self._task, completed=completed)
        self._bar.update(self._task, completed=completed)

    def evaluation(self, finished: int, episodes: int) -> None:
        """Shows how far an evaluation is while it runs."""
        self._bar.update(self._evaluation, completed=finished, total=episodes, visible=finished < episodes)

    def note(self, completed: int, steps_per_second: float, text: str) -> None:
        """Shows `text` (rates and scores) beside the bar, or as one line with the ETA where there is no terminal."""
        self._bar.update(self._task, note=text)
        if not self._console.is_terminal:
            seconds = timedelta(seconds=round((self._total - completed) / steps_per_second))
            left = UNKNOWN if completed <= self._known_from else seconds
            self._console.print(f"{completed}/{self._total} agent steps  ETA {left}  {text}")


class Remaining(TimeRemainingColumn):
    """The time that is left, from a task's step `known_from` on."""

    def render(self, task: Task) -> Text:
        if task.completed < task.fields["known_from"]:
            return Text(UNKNOWN, style="progress.remaining")
        return super().render(task)
