"""Pixels on their way into a network; the one place where they are divided by 255."""

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Pixels(Protocol):
    """Float pixels 0..255: a tensor [T, B, C, S, S], or a lazy view whose `[:, b]` crops the frames of sequences b.

    The caller may overwrite the result.
    """

    def __getitem__(self, index: Any) -> Tensor: ...


def as_pixels(observations: Any, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """A batch of observations, array or tensor uint8 [B, *shape], on a device. Raises ValueError for anything else."""
    pixels = torch.as_tensor(observations)
    if pixels.dtype != torch.uint8 or pixels.shape[1:] != shape:
        expected = ", ".join(map(str, shape))
        raise ValueError(f"expected uint8 [B, {expected}], got {pixels.dtype} {list(pixels.shape)}")
    return pixels.to(device)


def to_device(observation: np.ndarray, device: torch.device) -> Tensor:
    """An observation on a device. From pageable memory the copy would wait for the updates that are under way."""
    pixels = torch.from_numpy(observation)
    return pixels.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else pixels.to(device)


class PixelConv2d(nn.Conv2d):
    """Convolution of float pixels in 0..255, divided by 255 (F1 in docs/fidelity.md is a factor of the objective).

    Pixels may have further channels, all zero, behind the layer's own.
    """

    def forward(self, pixels: Tensor) -> Tensor:
        return self._conv_forward(pixels, self.scaled_weight(pixels.shape[1]), self.bias)

    def scaled_weight(self, channels: int) -> Tensor:
        """The weight for pixels in 0..255 with so many channels."""
        # On the weights the division is a thousandth of the work that it is on a batch of images.
        weight = self.weight / 255
        return weight if channels == self.in_channels else F.pad(weight, (0,) * 5 + (channels - self.in_channels,))


def to_unit_range(pixels: Tensor) -> Tensor:
    """Pixels in 0..255 to 0..1."""
    return pixels / 255
