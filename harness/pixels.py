"""The one place where pixels are divided by 255."""

from torch import Tensor, nn


class PixelConv2d(nn.Conv2d):
    """Convolution of float pixels in 0..255, divided by 255 (F1 in docs/fidelity.md is a factor of the objective)."""

    def forward(self, pixels: Tensor) -> Tensor:
        # On the weights the division is a thousandth of the work that it is on a batch of images.
        return self._conv_forward(pixels, self.weight / 255, self.bias)


def to_unit_range(pixels: Tensor) -> Tensor:
    """Pixels in 0..255 to 0..1."""
    return pixels / 255
