"""State of a run as its folder tells it: all that a sweep remembers, on one machine or on many.

.sweep.jsonl   a line when an attempt is submitted, starts and ends
.sweep.log     what the attempts printed
.sweep.lock    held by whoever attempts the run
"""

import csv
import fcntl
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.disk import lock
from harness.logs import whole_lines
from harness.run_folder import RunFolder, checkpoint_names
from harness.sweeps.plan import SweepRun

POLL_SECONDS = 0.2


def log_path(run: SweepRun) -> Path:
    return Path(run.run_dir) / ".sweep.log"


def note(run: SweepRun, event: str, **values) -> None:
    """Appends a line to the run's record; the folder is made if need be."""
    path = _record_path(run)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = _text(path)
    with path.open("a") as file:
        file.write("\n" * (bool(text) and not text.endswith("\n")))  # the last line was cut short
        file.write(json.dumps({"event": event, "time": time.time(), **values}) + "\n")


def read_events(run: SweepRun) -> list[dict]:
    """The lines of the record, oldest first; what a kill cut short is left out."""
    events = []
    for line in _text(_record_path(run)).splitlines():
        try:
            events.append(json.loads(line))
        except ValueError:
            continue
    return events


def is_finished(run: SweepRun) -> bool:
    """Tells whether the evaluation after the last step has all its rows."""
    rows = _rows(RunFolder(run.run_dir).evaluations)
    return sum(row["agent_steps"] == str(run.agent_steps) for row in rows) == run.episodes


def is_settled(run: SweepRun) -> bool:
    """Tells whether nothing is left to do: a kill after the last row leaves the curve to be drawn."""
    attempts = [event for event in read_events(run) if event["event"] != "submitted"]
    return is_finished(run) and (not attempts or attempts[-1].get("code") == 0)


def progress(run: SweepRun) -> list:
    """Newest checkpoint, if any, and number of evaluation rows: what the next attempt goes on from."""
    folder = RunFolder(run.run_dir)
    return [*checkpoint_names(folder.checkpoints)[-1:], len(_rows(folder.evaluations))]


def trained(run: SweepRun) -> tuple[int, float]:
    """The last agent step in metrics.csv, and the seconds that its rows took."""
    rows = _rows(RunFolder(run.run_dir).metrics)
    seconds = sum(float(row.get("time/total_seconds") or 0) for row in rows)
    return int(rows[-1]["agent_steps"]) if rows else 0, seconds


def futile_attempts(run: SweepRun) -> int:
    """Counts the latest attempts in a row that ended by themselves and got the run no further, since it last failed."""
    here, count = progress(run), 0
    for event in reversed(read_events(run)):
        if event["event"] == "ended":
            if event.get("further") or event["progress"] != here or event["outcome"] != "again":
                break
            count += 1
    return count


@contextmanager
def claimed(run: SweepRun, stop: Callable[[], bool]) -> Iterator[int | None]:
    """Waits until nobody else attempts the run or trains in its folder, and keeps others away. None if stopped first.

    Yields the lock's descriptor: a process that inherits it holds the claim as long as it lives, also where it outlives
    the sweep.
    """
    folder = Path(run.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".sweep.lock").open("w") as ours, (folder / ".lock").open("a") as training:
        for file in (ours, training):
            while not lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
                if stop():
                    yield None
                    return
                time.sleep(POLL_SECONDS)
        lock(training, fcntl.LOCK_UN)
        yield ours.fileno()


def is_claimed(run: SweepRun) -> bool:
    """Tells whether somebody attempts the run. Asking disturbs nobody, because a claim is waited for."""
    try:
        with (Path(run.run_dir) / ".sweep.lock").open() as file:
            return not lock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False


def _record_path(run: SweepRun) -> Path:
    return Path(run.run_dir) / ".sweep.jsonl"


def _rows(path: Path) -> list[dict[str, str]]:
    rows = csv.DictReader(whole_lines(_text(path)))
    return [row for row in rows if (row.get("agent_steps") or "").isdecimal()]


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # not there yet
        return ""
