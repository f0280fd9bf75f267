"""Priorities of a ring of steps, and draws in proportion to them.

Shapes: `B` batch.
"""

import torch
from torch import Tensor

SHARES = 2.0**62  # integer sum of all leaves: the finest that int64 holds


class Priorities:
    """One float64 leaf a slot, 0 where nothing may be drawn. A draw is a prefix sum and a binary search over all."""

    def __init__(self, capacity: int, device: torch.device | str):
        self.leaves = torch.zeros(capacity, dtype=torch.float64, device=device)

    @property
    def total(self) -> Tensor:
        """Sum of the leaves, float64 []."""
        return self.leaves.sum()

    def draw(self, uniforms: Tensor) -> Tensor:
        """First slots whose inclusive prefix sum reaches uniform * total; a slot of leaf 0 is never among them.

        uniforms float64 [B] in [0, 1) -> int64 [B]. Where no leaf is positive, or one is a NaN or an infinity, any
        slot.
        """
        # In integers the sums are exact: a parallel scan gives the same ones each time, they are sorted, and no zero
        # leaf is the first to reach anything.
        sums = (self.leaves / self.total * SHARES).long().cumsum(0)
        targets = (uniforms * sums[-1]).ceil().long().clamp(min=1)  # u = 0 is reached by the first positive leaf
        return torch.searchsorted(sums, torch.minimum(targets, sums[-1])).clamp(max=len(sums) - 1)

    def update(self, indices: Tensor, values: Tensor) -> None:
        """Writes `values` [B] at `indices` int64 [B]; an index that occurs twice takes its first value."""
        # Every copy gets that value before the write, so the order of the writes cannot matter.
        first = (indices.unsqueeze(1) == indices.unsqueeze(0)).to(torch.uint8).argmax(1)
        self.leaves.index_copy_(0, indices, values.to(self.leaves.dtype)[first])

    @property
    def nbytes(self) -> int:
        return self.leaves.nbytes
