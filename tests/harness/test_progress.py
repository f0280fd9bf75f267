import io
import re

import pytest
from rich.console import Console

from harness.progress import RunProgress


def shown(terminal: bool) -> str:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=150, height=20, legacy_windows=False)
    with RunProgress(1000, 200, console) as progress:
        progress.step(400)
        progress.note(400, 10.0, "10 steps/s  last score 7.0")
        progress.evaluation(3, 5)
        progress._bar.refresh()
        during = file.getvalue()
        file.truncate(0)
        progress.evaluation(5, 5)
        progress._bar.refresh()
        after = file.getvalue()
    assert "evaluate" not in after
    return during


def test_a_terminal_gets_bars():
    text = shown(terminal=True)
    assert "400/1000" in text and "last score 7.0" in text and "evaluate" in text and "3/5" in text


def test_a_log_file_gets_a_line_with_the_time_left():
    assert shown(terminal=False) == "400/1000 agent steps  ETA 0:01:00  10 steps/s  last score 7.0\n"


@pytest.mark.parametrize("terminal", [True, False])
def test_steps_before_the_first_update_say_nothing_of_the_time_left(terminal):
    now, file = [0.0], io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=150, height=20, get_time=lambda: now[0])
    left = []
    with RunProgress(1000, 0, console, updates_from=400) as progress:
        for step in range(1, 601):
            now[0] += 0.001 if step <= 400 else 1.0
            progress.step(step)
            if step in (200, 400, 600):
                file.truncate(0)
                progress._bar.refresh()
                progress.note(step, 1000.0 if step <= 400 else 1.0, "")
                left.append(re.findall(r"-:--:--|\d:\d\d:\d\d", file.getvalue())[-1])
    assert left == ["-:--:--", "-:--:--", "0:06:40"]


def test_a_run_without_updates_knows_its_time_left():
    console = Console(file=io.StringIO(), force_terminal=False, width=150)
    with RunProgress(1000, 0, console, updates_from=2000) as progress:
        progress.note(500, 100.0, "")
    assert "ETA 0:00:05" in console.file.getvalue()
