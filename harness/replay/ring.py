"""Ring of columns: one row for each of the last steps. L any number of steps."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from harness.replay.frames import copy_from_host


class Ring:
    """Columns [capacity, ...] on one device; step s lives in row s % capacity of each."""

    def __init__(self, **columns: Tensor):
        self.columns = columns

    def __getitem__(self, name: str) -> Tensor:
        return self.columns[name]

    @property
    def nbytes(self) -> int:
        return sum(column.nbytes for column in self.columns.values())

    def write(self, slot: int, **values: Any) -> None:
        """Writes numbers, flags or arrays into one row; a column of several values takes a sequence or an array."""
        for name, value in values.items():
            row = self.columns[name][slot]
            if row.dim() == 0:
                row.fill_(value)
            elif isinstance(value, tuple):
                for place, entry in zip(row, value, strict=True):
                    place.fill_(entry)
            else:
                copy_from_host(row, torch.as_tensor(value))

    def rows(self, slots: Tensor) -> dict[str, Tensor]:
        """Copies of the rows in `slots` int64 [L], each [L, ...]."""
        return {name: column.index_select(0, slots) for name, column in self.columns.items()}

    def load_rows(self, slots: Tensor, rows: Mapping[str, Tensor]) -> None:
        """Writes rows as `rows` gave them; further entries of `rows` are left out."""
        for name, column in self.columns.items():
            column.index_copy_(0, slots, rows[name].to(column.device))

    def stored_slots(self, start_step: int, stop_step: int, capacity: int, stored: int) -> Tensor:
        """Rows of the steps start..stop-1. Raises ValueError where not all are among the last of `stored`."""
        oldest = max(0, stored - capacity)
        if not oldest <= start_step < stop_step <= stored:
            raise ValueError(f"steps {start_step}..{stop_step} are not all in {oldest}..{stored}")
        return self.slots(start_step, stop_step, capacity)

    def slots(self, start_step: int, stop_step: int, capacity: int) -> Tensor:
        """Rows of the steps start..stop-1, int64 [L]."""
        device = next(iter(self.columns.values())).device
        return torch.arange(start_step, stop_step, device=device) % capacity
