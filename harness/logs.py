"""CSV files that grow by a row, gain columns when new keys appear, and can be cut back to a checkpoint."""

import csv
import io
import math
import os
from collections.abc import Iterable
from pathlib import Path

from harness.config import ConfigError, require
from harness.disk import sync


class CsvLog:
    """Rows of one CSV file. A new key adds a column; a value that a row lacks stays empty.

    With `keep_until`, rows of later agent steps and rows that a crash left unfinished are dropped first.
    Raises ConfigError for a file that is something else.
    """

    def __init__(self, path: Path, keep_until: int | None = None):
        self.path = path
        self.columns: list[str] = []
        if path.is_file():
            self.columns = next(csv.reader(self._lines()), [])
            if self.columns and "agent_steps" not in self.columns:
                raise ConfigError(f"{path} is no log of a run: move it away")
        if keep_until is not None:
            whole = (row for row in self.read() if is_whole(row) and row["agent_steps"].isdigit())
            self.keep(row for row in whole if int(row["agent_steps"]) <= keep_until)

    def append(self, *rows: dict) -> None:
        new = [key for row in rows for key in row if key not in self.columns]
        if new:
            self._rewrite(self.read(), self.columns + list(dict.fromkeys(new)))
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns).writerows(rows)
            _flush(file)

    def read(self) -> list[dict[str, str]]:
        if not self.path.is_file():
            return []
        return list(csv.DictReader(self._lines()))

    def _lines(self) -> io.StringIO:
        try:
            return whole_lines(self.path.read_text())
        except UnicodeDecodeError as error:
            raise ConfigError(f"{self.path} is damaged: move it away") from error

    def keep(self, rows: Iterable[dict]) -> None:
        """Leaves only `rows` in the file."""
        if self.columns:
            self._rewrite(rows, self.columns)

    def _rewrite(self, rows: Iterable[dict], columns: list[str]) -> None:
        part = self.path.with_suffix(".part")
        with part.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
            _flush(file)
        os.replace(part, self.path)
        self.columns = columns


def read_csv(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Header and rows of a CSV file, whole or not. Raises ConfigError for one that cannot be read."""
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file, strict=True)
            return list(reader.fieldnames or ()), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error


def require_whole(path: Path, rows: Iterable[dict]) -> None:
    """Raises ConfigError for a row that has more or fewer entries than the header of `path`."""
    for line, row in enumerate(rows, start=2):
        require(is_whole(row), f"{path}, line {line}: the row and the header differ in length")


def is_whole(row: dict) -> bool:
    return None not in row and None not in row.values()


def as_number(path: Path, line: int, row: dict[str, str], name: str, kind: type = int) -> int | float:
    """The finite number in a column; an int is not negative. Raises ConfigError for anything else."""
    try:
        value = kind(row[name])
    except ValueError:
        value = math.nan
    complaint = f"{path}, line {line}: {name} is '{row[name]}', which is no number for it"
    require(math.isfinite(value) and (kind is not int or value >= 0), complaint)
    return value


def whole_lines(text: str) -> io.StringIO:
    """A file without its last line if that has no end: it is being written, or a kill or a full disk cut it short."""
    return io.StringIO(text[: text.rfind("\n") + 1])


def _flush(file: io.TextIOBase) -> None:
    """To the disk: a checkpoint that survives a power cut must find the rows before it."""
    file.flush()
    sync(file.fileno())
