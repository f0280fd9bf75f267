"""Pixel baseline: convolutions in the place of autoencoder, pool and unpool, trained with the dynamics by the pixels.

Like DreamerV2 (Hafner et al. 2021), with sizes of our own; all else is as in Masked World Models.
`N` pictures, `P` pixels a side, `E` width of an embedding, `F` of a state's feature.
"""

import torch
from torch import Tensor, nn

from harness.pixels import to_unit_range
from mwm.config import RGB

SMALLEST = 4  # pixels a side of a map that is not halved further


class Pictures(nn.Module):
    """Pixels as they are, where Masked World Models have the autoencoder's tokens."""

    def features(self, pictures: Tensor) -> Tensor:
        """Pixels [N, 3, P, P] in -0.5..0.5 of uint8 [N, 3, P, P]."""
        return to_unit_range(pictures.float()) - 0.5

    def undo(self, pixels: Tensor) -> Tensor:
        """Pixels in 0..1 of those in -0.5..0.5."""
        return pixels.float() + 0.5


def map_sides(image_size: int) -> list[int]:
    """Sides of the maps, the picture's first; each layer halves."""
    sides = [image_size]
    while sides[-1] % 2 == 0 and sides[-1] > SMALLEST:
        sides.append(sides[-1] // 2)
    return sides


class PixelEncoder(nn.Module):
    """Pixels [N, 3, P, P] to an embedding [N, E]. The first layer has `depth` filters, each later one twice as many."""

    def __init__(self, depth: int, image_size: int):
        super().__init__()
        sides = map_sides(image_size)
        channels = [RGB, *(depth << layer for layer in range(len(sides) - 1))]
        self.width = channels[-1] * sides[-1] ** 2
        layers: list[nn.Module] = []
        for inputs, outputs in zip(channels, channels[1:], strict=False):
            layers += [nn.Conv2d(inputs, outputs, 4, 2, padding=1), nn.ELU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.layers(pixels).flatten(1)


class PixelDecoder(nn.Module):
    """Features [N, F] to pixels [N, 3, P, P]: the encoder's layers in reverse."""

    def __init__(self, depth: int, image_size: int, inputs: int):
        super().__init__()
        sides = map_sides(image_size)
        channels = [*(depth << layer for layer in reversed(range(len(sides) - 1))), RGB]
        self.shape = channels[0], sides[-1], sides[-1]
        self.embed = nn.Linear(inputs, channels[0] * sides[-1] ** 2)
        layers: list[nn.Module] = []
        for before, after in zip(channels, channels[1:], strict=False):
            layers += [nn.ConvTranspose2d(before, after, 4, 2, padding=1), nn.ELU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, feature: Tensor) -> Tensor:
        return self.layers(self.embed(feature).unflatten(1, self.shape))


def pixel_loss(predicted: Tensor, pixels: Tensor) -> Tensor:
    """Negative log-likelihood of normals of deviation 1 up to a constant: summed over a picture, averaged over all."""
    return torch.square(predicted.float() - pixels).sum((1, 2, 3)).mean() / 2
