"""Mask arithmetic: cells that a mask hides, and pixels that are hidden by it.

A surviving feature may still see a pixel whose other features are hidden. Nothing here imports torch.

g cells a side of the mask, m side of a stage's map, S side of the image that the encoder sees.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from math import comb
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `mlr.config` imports this file
    from mlr.config import MaskConfig, MLRConfig

# Kernel, stride and padding of a convolution or a maximum: the padding of both ends together, its odd one behind.
Layer = tuple[int, int, int]


@dataclass(frozen=True)
class Hidden:
    """Expectations over masks."""

    cells: float  # share of what the mask is laid on: pixels, or positions of a stage's map
    pixels: float  # share of the input pixels that no surviving feature sees, of those that some feature sees unmasked

    def __str__(self) -> str:
        return f"{self.cells:.1%} of its cells, {self.pixels:.1%} of the pixels"


def hidden_count(cells: int, ratio: float, rounding: str) -> int:
    """Number of hidden cells out of `cells`; the float product is cut as it comes, so 0.29 * 100 gives 28.

    `down` cuts the hidden share, `up` the visible one (F2 in docs/fidelity.md).
    """
    if rounding == "up":
        return cells - int((1 - ratio) * cells)
    return int(ratio * cells)


def hidden_by(mlr: "MLRConfig", image_size: int, seen_size: int, layers: Sequence[Sequence[Layer]]) -> Hidden:
    """Shares that the masks of `mlr` hide of images which the encoder sees `seen_size` pixels wide.

    layers: of the whole encoder, stage by stage; the stages are conv1, conv2, ... in this order.
    """
    mask = mlr.mask
    cells = hidden_cell_share(mask, mlr.seq_len, image_size)
    if mask.space == "pixel" or mask.strategy == "temporal":
        return Hidden(cells, cells)
    stage = int(mask.stage.removeprefix("conv"))
    return Hidden(cells, unseen_share(mask, image_size, seen_size, [*chain(*layers[:stage])]))


def hidden_cell_share(mask: "MaskConfig", seq_len: int, image_size: int) -> float:
    """Probability that a cell of a step is hidden; it is the same for all, and so of every pixel in them."""
    if mask.strategy == "none":
        return 0.0
    cells = cells_of_block(mask, seq_len, image_size)
    return hidden_count(cells, mask.ratio, mask.rounding) / cells


def cells_of_block(mask: "MaskConfig", seq_len: int, image_size: int) -> int:
    """Number of cells among which a block of the mask chooses; a temporal mask chooses among steps."""
    return seq_len if mask.strategy == "temporal" else (image_size // mask.patch_size) ** 2


def unseen_share(mask: "MaskConfig", image_size: int, seen_size: int, layers: Sequence[Layer]) -> float:
    """Share of the pixels all of whose features behind `layers` are hidden, for masks that choose among the cells.

    A pixel's features lie in a rectangle of cells. With h of n cells hidden, all c of them are with the probability
    C(n - c, h - c) / C(n, h). Pixels that no feature sees anyway are left out.
    """
    grid = image_size // mask.patch_size
    hidden = hidden_count(grid**2, mask.ratio, mask.rounding)
    spans = [span for pixel in range(seen_size) if (span := cells_of(pixel, grid, seen_size, layers))]
    shares = [all_hidden(grid**2, hidden, width * height) for width in spans for height in spans]
    return sum(shares) / len(shares)


def cells_of(pixel: int, grid: int, seen_size: int, layers: Sequence[Layer]) -> int:
    """Number of cells along one side that hold a feature with `pixel` in its receptive field."""
    features, side = features_of(pixel, seen_size, layers), receptive_field(layers, seen_size)[2]
    return features[-1] * grid // side - features[0] * grid // side + 1 if features else 0


def features_of(pixel: int, seen_size: int, layers: Sequence[Layer]) -> range:
    """Features along one side of the map behind `layers` with `pixel` in their receptive field."""
    field, distance, side, start = receptive_field(layers, seen_size)
    return range(max(-((start + field - 1 - pixel) // distance), 0), min((pixel - start) // distance, side - 1) + 1)


def receptive_field(layers: Sequence[Layer], seen_size: int) -> tuple[int, int, int, int]:
    """Geometry of the map behind `layers`, along one side.

    Pixels that a feature sees, pixels between two features, number of features, and the first one's first pixel.
    """
    field, distance, side, start = 1, 1, seen_size, 0
    for kernel, stride, padding in layers:
        field += (kernel - 1) * distance
        start -= padding // 2 * distance
        distance *= stride
        side = (side + padding - kernel) // stride + 1
    return field, distance, side, start


def all_hidden(cells: int, hidden: int, chosen: int) -> float:
    """Probability that `chosen` cells are all among `hidden` ones drawn out of `cells`."""
    return comb(cells - chosen, hidden - chosen) / comb(cells, hidden) if chosen <= hidden else 0.0
