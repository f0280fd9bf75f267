"""Stages of encoders that are padded as TensorFlow's SAME: convolutions, and the residual encoder of IMPALA.

Source: Espeholt et al. 2018; sizes and padding as in bigger_better_faster.
"""

from collections.abc import Iterator

from torch import Tensor, nn

from atari.config import EncoderConfig
from harness.pixels import PixelConv2d

LOWEST = float("-inf")  # padding of a maximum


class ResidualBlock(nn.Module):
    """Two convolutions, each behind a ReLU, added to their input."""

    def __init__(self, channels: int):
        super().__init__()
        convolutions = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.layers = nn.Sequential(*(layer for each in convolutions for layer in (nn.ReLU(), each)))

    def forward(self, features: Tensor) -> Tensor:
        return features + self.layers(features)


def impala_stages(config: EncoderConfig, channels: int, size: int) -> Iterator[nn.Sequential]:
    """A convolution, a maximum over `kernel` pixels, residual blocks; a ReLU behind the last stage."""
    for number, (width, kernel, stride) in enumerate(zip(config.channels, config.kernels, config.strides, strict=True)):
        convolution = (PixelConv2d if number == 0 else nn.Conv2d)(channels, width, 3, padding=1)
        pool = (nn.ConstantPad2d(same_padding(size, kernel, stride), LOWEST), nn.MaxPool2d(kernel, stride))
        end = [nn.ReLU()] if number == len(config.channels) - 1 else []
        yield nn.Sequential(convolution, *pool, *(ResidualBlock(width) for _ in range(config.blocks)), *end)
        channels, size = width, -(-size // stride)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int, int, int]:
    """Pixels left, right, above and below of maps of `size` pixels a side: what is odd comes right and below."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    before, after = total // 2, total - total // 2
    return before, after, before, after
