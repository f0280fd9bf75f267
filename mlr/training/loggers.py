"""CSV files that grow by a row, gain columns when new keys appear, and can be cut back to a checkpoint."""

import csv
import io
import os
from collections.abc import Iterable
from pathlib import Path

import torch

from mlr.config import ConfigError


class CsvLog:
    """Rows of one CSV file. A new key adds a column; a value that a row lacks stays empty.

    With `keep_until`, rows of later agent steps and rows that a crash left unfinished are dropped first.
    Raises ConfigError for a file that is something else.
    """

    def __init__(self, path: Path, keep_until: int | None = None):
        self.path = path
        self._columns: list[str] = []
        if path.is_file():
            self._columns = next(csv.reader(self._lines()), [])
            if self._columns and "agent_steps" not in self._columns:
                raise ConfigError(f"{path} is no log of a run: move it away")
        if keep_until is not None:
            self.keep(row for row in self.read() if _complete(row) and int(row["agent_steps"]) <= keep_until)

    def append(self, *rows: dict) -> None:
        new = [key for row in rows for key in row if key not in self._columns]
        if new:
            self._rewrite(self.read(), self._columns + list(dict.fromkeys(new)))
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self._columns).writerows(rows)
            _flush(file)

    def read(self) -> list[dict[str, str]]:
        if not self.path.is_file():
            return []
        return list(csv.DictReader(self._lines()))

    def _lines(self) -> io.StringIO:
        """The file without a last line that a kill or a full disk left unfinished, though it may have every column."""
        try:
            text = self.path.read_text()
        except UnicodeDecodeError as error:
            raise ConfigError(f"{self.path} is damaged: move it away") from error
        return io.StringIO(text[: text.rfind("\n") + 1])

    def keep(self, rows: Iterable[dict]) -> None:
        """Leaves only `rows` in the file."""
        if self._columns:
            self._rewrite(rows, self._columns)

    def _rewrite(self, rows: Iterable[dict], columns: list[str]) -> None:
        part = self.path.with_suffix(".part")
        with part.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
            _flush(file)
        os.replace(part, self.path)
        self._columns = columns


def _flush(file: io.TextIOBase) -> None:
    """To the disk: a checkpoint that survives a power cut must find the rows before it."""
    file.flush()
    os.fsync(file.fileno())


def _complete(row: dict) -> bool:
    return None not in row and None not in row.values() and row["agent_steps"].isdigit()


class MetricMeans:
    """Means of each metric over the updates that gave it, since they were last read; adding waits for no device."""

    def __init__(self):
        self._sums: dict[str, torch.Tensor] = {}  # float64, on the metrics' device, from the first `add` on
        self._restored: dict[str, float] = {}  # what the sums begin with
        self._counts: dict[str, int] = {}

    def add(self, metrics: dict[str, torch.Tensor]) -> None:
        for key, value in metrics.items():
            if key not in self._sums:
                start = self._restored.pop(key, 0.0)
                self._sums[key] = torch.full_like(value, start, dtype=torch.float64)
            self._sums[key] += value
            self._counts[key] = self._counts.get(key, 0) + 1

    def read(self) -> dict[str, float]:
        """The means as floats (the one wait for the device), and a new beginning."""
        means = {key: total / self._counts[key] for key, total in self._totals().items()}
        self._sums, self._restored, self._counts = {}, {}, {}
        return means

    def state(self) -> dict:
        return {"counts": dict(self._counts), "sums": self._totals()}

    def load_state(self, state: dict) -> None:
        self._sums, self._restored, self._counts = {}, dict(state["sums"]), dict(state["counts"])

    def _totals(self) -> dict[str, float]:
        if not self._sums:
            return dict(self._restored)
        return self._restored | dict(zip(self._sums, torch.stack(list(self._sums.values())).tolist(), strict=True))
