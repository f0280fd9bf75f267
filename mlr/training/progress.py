"""What a person sees while a run goes on: a progress bar on a terminal, plain lines in a log file."""

from datetime import timedelta
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class RunProgress:
    """Steps, ETA, rates and the last score of a run. Use as a context manager."""

    def __init__(self, total: int, completed: int, console: Console):
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}  ETA"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not console.is_terminal,
            speed_estimate_period=120,
        )
        self._task = self._bar.add_task(
            "train", total=total, completed=completed, visible=total > 0, unit="agent steps", note=""
        )
        self._evaluation = self._bar.add_task("evaluate", total=1, visible=False, unit="episodes", note="")
        self._total = total

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *exception) -> None:
        self._bar.stop()

    def step(self, completed: int) -> None:
        self._bar.update(self._task, completed=completed)

    def evaluation(self, finished: int, episodes: int) -> None:
        """Shows how far an evaluation is while it runs."""
        self._bar.update(self._evaluation, completed=finished, total=episodes, visible=finished < episodes)

    def note(self, completed: int, steps_per_second: float, text: str) -> None:
        """Shows `text` (rates and scores) beside the bar, or as one line with the ETA where there is no terminal."""
        self._bar.update(self._task, note=text)
        if not self._console.is_terminal:
            left = timedelta(seconds=round((self._total - completed) / steps_per_second))
            self._console.print(f"{completed}/{self._total} agent steps  ETA {left}  {text}")
