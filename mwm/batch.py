"""Batches that a replay hands to the two kinds of update, and what an agent asks of a replay.

`N` pictures, `B` windows, `T` steps, `A` actions, `S` pixels a side.
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass
class PictureBatch:
    pictures: Tensor  # uint8 [N, 3, S, S]
    rewards: Tensor  # float32 [N], that came with the picture; 0 with an episode's first


@dataclass
class WindowBatch:
    pictures: Tensor  # uint8 [B, T, 3, S, S]
    actions: Tensor  # float32 [B, T, A], that led to the picture; zeros at an episode's first
    rewards: Tensor  # float32 [B, T]
    first: Tensor  # bool [B, T], where the state begins anew
    terminal: Tensor  # bool [B, T]


class Batches(Protocol):
    """A replay whose draws come from the host; batches are then functions of tensors, which a recording can repeat."""

    def draw(self, kind: str) -> None:
        """Draws the next batch of a kind of update, "autoencoder" or "dynamics", into index tensors that stay."""
        ...

    def pictures(self) -> PictureBatch: ...

    def windows(self) -> WindowBatch: ...
