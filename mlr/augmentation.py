"""Random crop (Atari: a random shift, through padding) and random intensity, drawn for every image on its own.

N images, C channels, H W pixels, S side of the source window of a crop.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import EllipsisType

import torch
from torch import Tensor, nn

from mlr.config import AugmentationConfig, one_of, require

# On a CPU the crop runs in pieces of this many images: what it makes on the way stays in the cache.
CPU_PIECE = 16


class RandomCrop(nn.Module):
    """Crops `crop_size` pixels from an image of `image_size` that is first padded by `pad` with its edge pixels.

    `slice` cuts a window. `resample` reads the padded image bilinearly at
    `(offset + (k + 1/2) * (out - 1) / out) * in / (in - 1) - 1/2` for output pixel k, zeros outside, where `in` is
    the padded and `out` the cropped size: what the released code's library does (F9 in docs/fidelity.md).
    Without `last_offset` the window never lies at the far edge: offsets end one short (F10).
    The result comes in `memory_format`.
    Raises ConfigError for a crop larger than the padded image or an unknown mode.
    """

    def __init__(
        self,
        image_size: int,
        crop_size: int,
        pad: int,
        mode: str,
        last_offset: bool = True,
        memory_format: torch.memory_format = torch.contiguous_format,
    ):
        super().__init__()
        one_of("augmentation.crop", mode, ("resample", "slice"))
        padded_size = image_size + 2 * pad
        require(
            crop_size <= padded_size,
            f"a crop of {crop_size} does not fit an image of {image_size} padded by augmentation.pad={pad}",
        )
        self.crop_size = crop_size
        self.memory_format = memory_format
        offsets = padded_size - crop_size + 1
        self.offsets = offsets if last_offset else max(offsets - 1, 1)
        # A resampled pixel lies less than one pixel from the sliced one: its neighbours are in reach of a margin of 1.
        self.margin = 1 if mode == "resample" else 0
        self.border = pad + self.margin
        taps = resampling_taps(padded_size, crop_size) if mode == "resample" else None
        self.register_buffer("taps", taps, persistent=False)

    def draw(self, count: int, generator: torch.Generator, device: torch.device | str) -> Tensor:
        """Offsets (x, y), int64 [N, 2], uniform over 0..self.offsets - 1; all x are drawn before all y."""
        x = torch.rand(count, generator=generator, device=device)
        y = torch.rand(count, generator=generator, device=device)
        return (self.offsets * torch.stack([x, y], dim=1)).long()

    def forward(self, images: Tensor, offsets: Tensor, factor: Tensor | None = None) -> Tensor:
        """Images [N, C, H, W], offsets int64 [N, 2] (x, y) -> float32 [N, C, crop, crop] on the images' scale.

        With a `factor` float32 [N] each image is multiplied by its own.
        """
        count = CPU_PIECE if images.device.type == "cpu" else len(images)
        shape = (*images.shape[:2], self.crop_size, self.crop_size)
        cropped = torch.empty(shape, device=images.device, memory_format=self.memory_format)
        for start in range(0, len(images), count):
            piece = slice(start, start + count)
            pixels = self._window(images[piece], offsets[piece])
            if self.taps is not None:
                pixels = self._resample(pixels.float(), offsets[piece])
            if factor is None:
                cropped[piece].copy_(pixels)
            else:
                torch.mul(pixels.float(), factor[piece, None, None, None], out=cropped[piece])
        return cropped

    def _window(self, images: Tensor, offsets: Tensor) -> Tensor:
        """The cropped pixels and the margin around them, [N, C, S, S]."""
        count, channels, height, _ = images.shape
        side = self.crop_size + 2 * self.margin
        shape = (*images.shape[:3], self.border)
        wide = torch.cat([images[..., :1].expand(shape), images, images[..., -1:].expand(shape)], dim=-1)
        row = offsets[:, 1:] - self.border + torch.arange(side, device=images.device)
        row = row.clamp(0, height - 1)[:, None]  # [N, 1, S]; the rows above and below repeat the edge
        image = torch.arange(count * channels, device=images.device).view(count, channels, 1)
        start = (image * height + row) * wide.shape[-1] + offsets[:, :1, None]  # [N, C, S], in flat pixels
        runs = wide.flatten().unfold(0, side, 1)  # every run of S neighbouring pixels, as a view
        return runs.index_select(0, start.flatten()).view(count, channels, side, side)

    def _resample(self, window: Tensor, offsets: Tensor) -> Tensor:
        x_taps, y_taps = self.taps[offsets].unbind(1)  # [N, 3, crop]
        rows = _blend(window, y_taps[:, :, None, :, None], -2)
        return _blend(rows, x_taps[:, :, None, None, :], -1)


def resampling_taps(padded_size: int, crop_size: int) -> Tensor:
    """Weights of the pixels offset + k - 1, offset + k and offset + k + 1 in output pixel k: [offsets, 3, crop].

    A pixel's weight falls linearly with its distance from the source position; outside the padded image it is 0.
    """
    offset = torch.arange(padded_size - crop_size + 1, dtype=torch.float64)[:, None, None]
    k = torch.arange(crop_size, dtype=torch.float64)
    neighbour = offset + k + torch.arange(-1.0, 2.0, dtype=torch.float64)[:, None]  # [offsets, 3, crop]
    position = (offset + (k + 0.5) * (crop_size - 1) / crop_size) * padded_size / (padded_size - 1) - 0.5
    inside = (neighbour >= 0) & (neighbour < padded_size)
    return ((1 - (position - neighbour).abs()).clamp(min=0) * inside).float()


def intensity_factor(
    count: int, scale: float, limit: float, generator: torch.Generator, device: torch.device | str
) -> Tensor:
    """One brightness factor per image, float32 [N]: 1 + scale * clamp(N(0, 1), -limit, limit)."""
    return 1 + scale * torch.randn(count, generator=generator, device=device).clamp(-limit, limit)


@dataclass(frozen=True)
class View:
    """Images of any leading dimensions and what was drawn for each: an index of these makes the pixels of some.

    A batch that is gone through in pieces so needs no float copy of the whole.
    """

    crop: RandomCrop
    images: Tensor  # [..., C, H, W]
    offsets: Tensor  # int64 [..., 2]
    factor: Tensor | None = None  # float32 [...], of the brightness

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: slice | tuple[slice, ...] | EllipsisType) -> Tensor:
        """float32 [..., C, crop, crop], new with each call."""
        images, offsets = self.images[index], self.offsets[index]
        factor = None if self.factor is None else self.factor[index].reshape(-1)
        pixels = self.crop(images.reshape(-1, *images.shape[-3:]), offsets.reshape(-1, 2), factor)
        return pixels.unflatten(0, images.shape[:-3])


class Augmentation(nn.Module):
    """Crop, then intensity. Frames [..., C, H, W], uint8 or float -> float32 [..., C, crop, crop], still 0..255.

    Every image of the leading dimensions is drawn on its own: crop x, crop y, then the intensity's normal. The result's
    images come in `memory_format`. The generator must be on the frames' device. What `config.extra` names comes before
    all that; with it the module cannot be captured in a CUDA graph. Source: paper, appendix B.
    """

    def __init__(
        self,
        config: AugmentationConfig,
        image_size: int,
        crop_size: int,
        memory_format: torch.memory_format = torch.contiguous_format,
    ):
        super().__init__()
        self.crop = RandomCrop(image_size, crop_size, config.pad, config.crop, memory_format=memory_format)
        self.intensity = config.intensity
        self.intensity_clamp = config.intensity_clamp
        self.extra = _extra(config.extra)

    def forward(self, frames: Tensor, generator: torch.Generator) -> Tensor:
        return self.view(frames, generator)[...]

    def view(self, frames: Tensor, generator: torch.Generator) -> View:
        """The same, drawn now and made piece by piece."""
        images, leading = frames.reshape(-1, *frames.shape[-3:]), frames.shape[:-3]
        for augment in self.extra:
            images = augment(images.float(), generator)
        offsets = self.crop.draw(len(images), generator, images.device)
        factor = intensity_factor(len(images), self.intensity, self.intensity_clamp, generator, images.device)
        return View(self.crop, *(part.view(*leading, *part.shape[1:]) for part in (images, offsets, factor)))


def _extra(names: list[str]) -> list[Callable[[Tensor, torch.Generator], Tensor]]:
    if not names:
        return []
    from mlr.extra_augmentation import EXTRA  # imports kornia, an optional dependency

    return [EXTRA[name] for name in names]


def _blend(pixels: Tensor, taps: Tensor, dim: int) -> Tensor:
    """The sum of `pixels` shifted by 0, 1, 2 along `dim`, each times its tap [N, 3, ...]."""
    size = taps.shape[dim]
    blended = pixels.narrow(dim, 0, size) * taps[:, 0]
    for shift in range(1, taps.shape[1]):
        blended.addcmul_(pixels.narrow(dim, shift, size), taps[:, shift])
    return blended
