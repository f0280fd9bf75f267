"""An evaluation in a process of its own, while training goes on in this one."""

import time
from pathlib import Path

import torch

from mlr.training.worker import Worker


class BackgroundEvaluation:
    """evaluate(weights, index, video, watch, workers) in a spawned process with as many threads as this one has.

    finished: episodes that are over. seconds: what it took, once the rows are there.
    """

    def __init__(self, evaluate, weights: Path, index: int, video: Path | None, workers: int, timeout_seconds: float):
        arguments = evaluate, weights, index, video, workers, torch.get_num_threads()
        self._worker = Worker("the evaluation in the background", timeout_seconds, _evaluate, *arguments)
        self._rows: list[dict] = []
        self.finished, self.seconds = 0, 0.0

    def rows(self, seconds: float) -> list[dict] | None:
        """The rows, or None if they are not there within `seconds`.

        Raises WorkerLost when the process died or has been silent for too long, and what the evaluation raised.
        """
        while self._worker.ready(seconds):
            seconds = 0
            message = self._worker.receive()
            if isinstance(message, int):
                self.finished = message
            elif isinstance(message, dict):
                self._rows.append(message)
            else:
                self.seconds = message
                return self._rows
        return None

    def close(self) -> None:
        """Gives up what is not there yet."""
        self._worker.close()


def _evaluate(connection, evaluate, weights, index, video, workers, threads) -> None:
    """Sends how many episodes are over again and again, then row by row, then the seconds that it took."""
    torch.set_num_threads(threads)
    start = time.perf_counter()
    rows = evaluate(weights, index, video, connection.send, workers)
    for message in (*rows, time.perf_counter() - start):
        connection.send(message)
