"""TensorBoard and W&B beside a run: each is a process of its own that copies the run's CSV files.

Training writes its CSV files as it does without them, and waits for a tracker at its end alone, for a bounded time.
A tracker's library may change signals, random numbers, threads or the output, and its service may hang: in its process.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from threading import Thread

from rich.console import Console

from harness.config import LoggerConfig
from harness.run_folder import RunFolder

ROOT = Path(__file__).parents[1]


def chosen(logger: LoggerConfig) -> list[str]:
    return ["tensorboard"] * logger.tensorboard + ["wandb"] * (logger.wandb != "off")


@contextmanager
def tracked(config, folder: RunFolder, milestones: list[int], console: Console) -> Iterator[None]:
    """Within it the chosen trackers follow metrics.csv and evaluations.csv, which must be cut to the checkpoint before.

    milestones: agent steps whose mean score is a summary value, the last one `score` itself.
    Prints at most a line or two per tracker, and raises nothing of its own. A KeyboardInterrupt passes without a wait:
    the trackers then end by themselves, as after a kill.
    """
    trackers, code, wait = [], 1, True
    for name in chosen(config.logger):
        try:
            trackers.append(Tracker(name, folder, config.logger, milestones, console))
        except OSError as error:
            console.print(f"{name}: cannot start: {error}", markup=False)
    try:
        yield
        code = 0
    except KeyboardInterrupt:
        wait = False
        raise
    finally:
        for tracker in trackers:
            tracker.tell_end(code)
        for tracker in trackers if wait else ():
            tracker.wait(config.logger.finish_timeout_seconds)


class Tracker:
    """The process of one tracker, told of the run's end through its standard input, which a kill closes too.

    Raises OSError where it cannot start.
    """

    def __init__(self, name: str, folder: RunFolder, logger: LoggerConfig, milestones: list[int], console: Console):
        self._name, self._console = name, console
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [sys.executable, "-P", "-m", "harness.mirror", name, str(folder.path)]
        command += [json.dumps(asdict(logger)), *map(str, milestones)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is for the run, which then tells its trackers
            text=True,
        )
        self._lines = Thread(target=self._pass_on, daemon=True)
        self._lines.start()

    def tell_end(self, code: int) -> None:
        """code: 0 if the run ended well or was asked to stop."""
        with suppress(OSError):  # it has ended before, and said so
            self._process.stdin.write(f"{code}\n")
            self._process.stdin.close()

    def wait(self, seconds: float) -> None:
        """Ends the process if it takes longer."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._lines.join()
        if code == -signal.SIGALRM or code == -signal.SIGKILL:
            self._say(f"not done within {seconds:g} s of the run's end; metrics.csv has all of it")
        elif code:
            self._say(f"ended with exit code {code}; metrics.csv has all of it")

    def _pass_on(self) -> None:
        for line in self._process.stdout:
            with suppress(OSError):  # raised by an output that takes no more; the run finds out itself
                self._say(line.rstrip("\n"))

    def _say(self, what: str) -> None:
        self._console.print(f"{self._name}: {what}", markup=False)
