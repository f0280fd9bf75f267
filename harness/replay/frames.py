"""Frame store: every frame is kept once, stacked observations are rebuilt from it by index.

Shapes: `...` any leading dimensions, `S` stack (old to new), `H,W` image; a frame may have more dimensions than two.
"""

import numpy as np
import torch
from torch import Tensor


class FrameStore:
    """Ring of `capacity` uint8 frames of `frame_shape`; the frame of global step s lives in slot s % capacity.

    `padding` is what a stack shows before its episode's first frame: "zeros" or that first frame again ("repeat").
    """

    def __init__(
        self, capacity: int, frame_shape: tuple[int, ...], stack: int, padding: str, device: torch.device | str
    ):
        self.capacity, self.stack_size, self.padding = capacity, stack, padding
        # One blank frame behind the ring: padding is then a matter of indices, and a stack is one gather.
        self.frames = torch.zeros(capacity + 1, *frame_shape, dtype=torch.uint8, device=device)
        # Gathered in words of 8 bytes where frames are made of them: an eighth of the index arithmetic.
        self._rows = self.frames.flatten(1)
        if self._rows.shape[1] % 8 == 0:
            self._rows = self._rows.view(torch.int64)
        self.offsets = torch.arange(stack - 1, -1, -1, device=device)  # [S], steps back

    def write(self, slot: int, frame: np.ndarray | Tensor) -> None:
        """Copies `frame` (uint8, frame_shape) into slot 0..capacity-1. Raises ValueError on another shape or dtype."""
        frame = torch.as_tensor(frame)
        expected = self.frames.shape[1:]
        if frame.shape != expected or frame.dtype != torch.uint8:
            raise ValueError(f"expected a uint8 frame {tuple(expected)}, got {frame.dtype} {tuple(frame.shape)}")
        copy_from_host(self.frames[slot], frame)

    def stack(self, slots: Tensor, since_first: Tensor) -> Tensor:
        """Observations whose newest frame is in `slots`.

        slots int64 [...]; since_first int64 [...], steps since the episode's first frame (values of S-1 and above mean
        the same, see `steps_since_first`) -> uint8 [..., S, *frame_shape].
        """
        slots, since_first = slots.unsqueeze(-1), since_first.unsqueeze(-1)
        if self.padding == "repeat":
            sources = (slots - torch.minimum(self.offsets, since_first)) % self.capacity
        else:
            blank = self.capacity
            sources = torch.where(self.offsets <= since_first, (slots - self.offsets) % self.capacity, blank)
        # index_select copies whole frames; indexing with [] is five times slower on a CPU.
        stacks = self._rows.index_select(0, sources.flatten()).view(torch.uint8)
        return stacks.view(*sources.shape, *self.frames.shape[1:])

    @property
    def nbytes(self) -> int:
        return self.frames.nbytes


def copy_from_host(target: Tensor, values: Tensor) -> None:
    """Copies `values` from host memory into `target`, in the order of its device's work, without waiting for it."""
    if target.is_cuda:
        values = values.pin_memory()  # a copy from pageable memory would wait for the updates that are under way
    target.copy_(values, non_blocking=True)


def steps_since_first(ended: Tensor, history: int) -> Tensor:
    """Steps since the episode's first, at most `history`, for consecutive steps.

    ended bool [history + T, ...]: whether the episode ended with that step, from `history` steps before the first step
    asked for -> int64 [T, ...].
    """
    length = ended.shape[0] - history
    same_episode = torch.ones_like(ended[:length])
    count = torch.zeros_like(same_episode, dtype=torch.int64)
    for back in range(1, history + 1):
        same_episode = same_episode & ~ended[history - back : history - back + length]
        count = count + same_episode
    return count
