"""Evaluations in a process of their own, one after the other, while training goes on in this one."""

import time
from pathlib import Path

import torch

from harness.worker import Worker


class Background:
    """evaluate(weights, index, video, watch, workers) in a spawned process with as many threads as this one has.

    busy: whether an evaluation is under way. finished: its episodes that are over. seconds: what it took in the end.
    """

    def __init__(self, evaluate, workers: int, timeout_seconds: float):
        threads = torch.get_num_threads()
        self._worker = Worker("the process for evaluations", timeout_seconds, _serve, evaluate, workers, threads)
        self._rows: list[dict] = []
        self.busy, self.finished, self.seconds = False, 0, 0.0

    def start(self, weights: Path, index: int, video: Path | None) -> None:
        """Raises WorkerLost."""
        self._rows, self.busy, self.finished = [], True, 0
        self._worker.send((weights, index, video))

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
                self.busy, self.seconds = False, message
                return self._rows
        return None

    def close(self) -> None:
        """Gives up what is under way."""
        self._worker.close()


def _serve(connection, evaluate, workers: int, threads: int) -> None:
    """Sends how many episodes of an evaluation are over again and again, then row by row, then its seconds."""
    torch.set_num_threads(threads)
    while True:
        weights, index, video = connection.recv()
        start = time.perf_counter()
        rows = evaluate(weights, index, video, connection.send, workers)
        for message in (*rows, time.perf_counter() - start):
            connection.send(message)
