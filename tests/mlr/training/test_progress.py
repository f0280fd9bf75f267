import io

from rich.console import Console

from mlr.training.progress import RunProgress


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
