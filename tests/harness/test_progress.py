import io
import re

import pytest
from rich.console import Console

from harness.progress import RunProgress


def row(steps, updates, steps_per_second, updates_per_second, episode_return=None):
    return {
        "agent_steps": steps,
        "updates": updates,
        "time/agent_steps_per_second": steps_per_second,
        "time/updates_per_second": updates_per_second,
        "train/episode_return": episode_return,
    }


def shown(terminal: bool) -> str:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=150, height=20, legacy_windows=False)
    with RunProgress(1000, 0, console, 200) as progress:
        progress.advance(400, 0)
        progress.note(row(400, 0, 10.0, 0.0), 7.0)
        progress.evaluation(3, 5)
        progress._bar.refresh()
        during = file.getvalue()
        file.truncate(0)
        progress.evaluation(5, 5)
        progress._bar.refresh()
        after = file.getvalue()
    assert "evaluate" not in after
    return during


def test_the_second_evaluation_has_a_time_of_its_own():
    with RunProgress(1000, 0, Console(file=io.StringIO())) as progress:
        for finished in (0, 5, 0, 3):
            progress.evaluation(finished, 5)
        task = progress._bar.tasks[-1]
        assert not task.finished and (task.completed, task.total) == (3, 5)


def test_a_terminal_gets_bars():
    text = shown(terminal=True)
    assert "400/1000" in text and "last score 7.0" in text and "evaluate" in text and "3/5" in text


def test_a_log_file_gets_a_line_with_the_time_left():
    expected = "400/1000 agent steps  ETA 0:01:00  10.0 steps/s  0.0 updates/s  last score 7.0\n"
    assert shown(terminal=False) == expected


@pytest.mark.parametrize("terminal", [True, False])
def test_steps_before_the_first_update_say_nothing_of_the_time_left(terminal):
    now, file = [0.0], io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=150, height=20, get_time=lambda: now[0])
    left = []
    with RunProgress(1000, 1200, console) as progress:
        for step in range(1, 601):
            updates = 2 * max(step - 400, 0)
            now[0] += 1.0 if updates else 0.001
            progress.advance(step, updates)
            if step in (200, 400, 600):
                file.truncate(0)
                progress._bar.refresh()
                progress.note(row(step, updates, 1.0 if updates else 1000.0, 2.0 if updates else 0.0), None)
                left.append(re.findall(r"-:--:--|\d:\d\d:\d\d", file.getvalue())[-1])
    assert left == ["-:--:--", "-:--:--", "0:06:40"]


def test_a_long_phase_shows_its_updates_and_the_time_left():
    now, file = [0.0], io.StringIO()
    console = Console(file=file, force_terminal=True, width=150, height=20, get_time=lambda: now[0])
    seen = []
    with RunProgress(1000, 300, console, 10) as progress:
        for updates in range(1, 61):
            now[0] += 1.0
            progress.advance(11, updates, in_a_phase=updates < 60)
            if updates in (59, 60):
                file.truncate(0)
                progress._bar.refresh()
                seen.append(re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\0", "", file.getvalue()))
    shown = [re.findall(r"(\d+/\d+) +(\w+).*?ETA +(\S+)", text) for text in seen]
    assert shown[0] == [("11/1000", "agent", "0:04:01"), ("59/300", "updates", "0:04:01")]
    assert shown[1] == [("11/1000", "agent", "0:04:00")]
