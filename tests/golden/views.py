"""Augmentation that a file records in place of the fixed one: windows, brightness, or whole views.

Words of a key say whose images it is about and what it holds; README.md has the table. A value is one for all images,
or has an entry for each image, in rows or by time and batch, or a set of entries for each update.

`N` images, `T` time, `B` batch, `C, H, W` image, `S` side of a view.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tests.golden.check import Arrays

INTENSITY, INTENSITY_CLAMP = 0.05, 2.0
QUANTITIES = {
    "row": {"row", "rows", "y"},
    "column": {"col", "cols", "column", "columns", "x"},
    "xy": {"xy"},
    "factor": {"intensity", "brightness", "factor"},
    "normal": {"normal", "normals"},
    "view": {"view", "views", "augmented"},
}
# Words of arrays that are no augmentation, or say less of it than others.
OTHERS = {"counts", "predictor", "grad", "noise", "small", "std", "log", "uniform", "uniforms"}
MASKED = {"masked", "online", "anchor", "student"}
TARGET = {"target", "whole", "unmasked", "momentum", "positive", "clean", "teacher"}

Crop = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # images [N, C, H, W], offsets (x, y) [N, 2], factor [N]


@dataclass(frozen=True)
class Views:
    """Makes views of images from recorded values, by quantity.

    `offset` is the window (x, y) where none is recorded; None: the images stay whole. Rows of a clip's images are
    row = t * B + b, or with `batch_major` row = b * T + t.
    """

    values: dict[str, np.ndarray]
    crop: Crop
    offset: tuple[int, int] | None
    batch_major: bool

    def __call__(self, frames: Tensor, update: int = 0) -> Tensor:
        """Frames [..., C, H, W] -> float pixels [..., C, S, S]."""
        leading = frames.shape[:-3]
        if "view" in self.values:
            pixels = self._entries("view", leading, update, self.values["view"].shape[-3:]).float()
        else:
            pixels = self._cropped(frames, leading, update)
        return pixels.unflatten(0, leading)

    def _cropped(self, frames: Tensor, leading: tuple[int, ...], update: int) -> Tensor:
        images, factor = frames.reshape(-1, *frames.shape[-3:]), self._factor(leading, update)
        if "xy" in self.values:
            offsets = self._entries("xy", leading, update, (2,)).long()
        elif "row" in self.values:
            offsets = torch.stack([self._entries(name, leading, update).long() for name in ("column", "row")], dim=1)
        elif self.offset is not None:
            offsets = torch.tensor(self.offset).expand(len(images), 2)
        else:
            return images.float() if factor is None else images.float() * factor[:, None, None, None]
        return self.crop(images, offsets, factor)

    def _factor(self, leading: tuple[int, ...], update: int) -> Tensor | None:
        if "factor" in self.values:
            return self._entries("factor", leading, update).float()
        if "normal" in self.values:
            normal = self._entries("normal", leading, update).float()
            return 1 + INTENSITY * normal.clamp(-INTENSITY_CLAMP, INTENSITY_CLAMP)
        return None

    def _entries(self, quantity: str, leading: tuple[int, ...], update: int, shape: tuple[int, ...] = ()) -> Tensor:
        """The value of each image, [N, *shape]."""
        values, count = torch.from_numpy(np.asarray(self.values[quantity])), math.prod(leading)
        if values.shape == shape:
            return values.expand(count, *shape)
        in_rows = values.shape[: values.ndim - len(shape)][-1] == count
        if in_rows and self.batch_major and len(leading) == 2:
            values = values.reshape(-1, *leading[::-1], *shape).transpose(1, 2)
        updates = values.reshape(-1, count, *shape)
        return updates[update if len(updates) > 1 else 0]


def recorded_views(
    arrays: Arrays, whose: Sequence[str], crop: Crop, offset: tuple[int, int] | None, batch_major: bool
) -> Views:
    """Views of images that go by any of the names `whose`; values of an earlier name go before those of a later one."""
    values: dict[str, np.ndarray] = {}
    for name in reversed(whose):
        values |= {quantity: array for key, array in arrays.items() if (quantity := quantity_of(key, name))}
    return Views(values, crop, offset, batch_major)


def quantity_of(key: str, whose: str) -> str | None:
    """Quantity that an array holds of the images of this name, None if it holds none."""
    words = set(re.findall("[a-z]+", key.lower()))
    if words & OTHERS or images_of(words) != whose:
        return None
    return next((quantity for quantity, names in QUANTITIES.items() if words & names), None)


def images_of(words: set[str]) -> str:
    """Name of the images that these words mean: a branch's, both branches' (clip), or a transition's."""
    if "next" in words:
        return next((f"next_{network}" for network in ("online", "target") if network in words), "next")
    if words & MASKED:
        return "masked"
    if words & TARGET:
        return "target"
    return "obs" if words & {"obs", "rl"} else "clip"
