"""Random crop (Atari: a random shift, through padding) and random intensity, drawn for every image on its own.

N images, C channels, H W pixels, S side of the source window of a crop.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import EllipsisType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.fused import Compute, reason_against
from mlr.config import AugmentationConfig

# On a CPU the crop runs in slices of this many images: its intermediate results stay in the cache.
CPU_SLICE = 8


class RandomCrop(nn.Module):
    """Crops `crop_size` pixels from an image of `image_size` that is first padded by `pad` with its edge pixels.

    `slice` cuts a window. `resample` reads the padded image bilinearly at
    `(offset + (k + 1/2) * (out - 1) / out) * in / (in - 1) - 1/2` for output pixel k, zeros outside, where `in` is
    the padded and `out` the cropped size: what the released code's library does (F9 in docs/fidelity.md).
    Without `last_offset` the window never lies at the far edge: offsets end one short (F10).
    The result lies channels-last, as convolutions want it.
    """

    def __init__(self, image_size: int, crop_size: int, pad: int, mode: str, last_offset: bool = True):
        super().__init__()
        padded_size = image_size + 2 * pad
        self.crop_size = crop_size
        offsets = padded_size - crop_size + 1
        self.offsets = offsets if last_offset else max(offsets - 1, 1)
        self.pad = pad
        self._fused: tuple[int, torch.dtype] | None = None  # channels and result of what a kernel crops: `fuse`
        self.mode = mode
        lines = resampled_lines(padded_size, crop_size) if mode == "resample" else None
        self.register_buffer("lines", lines, persistent=False)

    def draw(self, count: int, generator: torch.Generator, device: torch.device | str) -> Tensor:
        """Offsets (x, y), int64 [N, 2], uniform over 0..self.offsets - 1; all x are drawn before all y."""
        x = torch.rand(count, generator=generator, device=device)
        y = torch.rand(count, generator=generator, device=device)
        return (self.offsets * torch.stack([x, y], dim=1)).long()

    def forward(self, images: Tensor, offsets: Tensor, factor: Tensor | None = None) -> Tensor:
        """Images [N, C, H, W], offsets int64 [N, 2] (x, y) -> float32 [N, C, crop, crop] on the images' scale.

        With a `factor` float32 [N] each image is multiplied by its own. Where `fuse` found a kernel the faster way, the
        result has its type, and zero channels behind the C.
        """
        if self._fused is not None and images.dtype == torch.uint8 and images.shape[1] == self._fused[0]:
            return self._by_kernel(images, offsets, factor, self._fused[1])
        return self._by_torch(images, offsets, factor)

    def fuse(self, images: Tensor, dtype: torch.dtype, precision: str, seconds: Callable[[Compute], float]) -> str:
        """Takes a kernel for such images uint8 [N, C, H, W] where it is right and faster; returns a reason against.

        dtype: of the result, in which the encoder multiplies.
        """
        count = len(images)
        place = torch.arange(2 * count, device=images.device).view(count, 2) % self.offsets
        factor = torch.linspace(0.9, 1.1, count, device=images.device) if self.lines is not None else None
        reason = reason_against(
            lambda: [self._by_kernel(images, place, factor, dtype)[:, : images.shape[1]]],
            lambda: [self._by_torch(images, place, factor).to(dtype)],
            precision,
            seconds,
        )
        self._fused = None if reason else (images.shape[1], dtype)
        return reason

    def _by_kernel(self, images: Tensor, offsets: Tensor, factor: Tensor | None, dtype: torch.dtype) -> Tensor:
        from mlr.crop_kernel import crop  # imports Triton

        return crop(images, offsets, factor, self.lines, self.pad, self.crop_size, dtype)

    def _by_torch(self, images: Tensor, offsets: Tensor, factor: Tensor | None) -> Tensor:
        read = self._window if self.lines is None else self._resample
        if torch.compiler.is_compiling():  # its kernels need no slices, and it takes no `out` that is a view
            pixels = read(images, offsets).float()
            pixels = pixels if factor is None else pixels * factor[:, None, None, None]
            return pixels.contiguous(memory_format=torch.channels_last)
        count = CPU_SLICE if images.device.type == "cpu" else len(images)
        shape = (*images.shape[:2], self.crop_size, self.crop_size)
        cropped = torch.empty(shape, device=images.device, memory_format=torch.channels_last)
        for start in range(0, len(images), count):
            part = slice(start, start + count)
            pixels = read(images[part], offsets[part])
            if factor is None:
                cropped[part].copy_(pixels)
            else:
                torch.mul(pixels.float(), factor[part, None, None, None], out=cropped[part])
        return cropped

    def _window(self, images: Tensor, offsets: Tensor) -> Tensor:
        """The cropped pixels [N, C, S, S] as they are."""
        count, channels, height, _ = images.shape
        wide = images
        if self.pad:
            shape = (*images.shape[:3], self.pad)
            wide = torch.cat([images[..., :1].expand(shape), images, images[..., -1:].expand(shape)], dim=-1)
        row = offsets[:, 1:] - self.pad + torch.arange(self.crop_size, device=images.device)
        row = row.clamp(0, height - 1)[:, None]  # [N, 1, S]; the rows above and below repeat the edge
        image = torch.arange(count * channels, device=images.device).view(count, channels, 1)
        start = (image * height + row) * wide.shape[-1] + offsets[:, :1, None]  # [N, C, S], in flat pixels
        runs = wide.flatten().unfold(0, self.crop_size, 1)  # every run of S neighbouring pixels, as a view
        return runs.index_select(0, start.flatten()).view(count, channels, self.crop_size, self.crop_size)

    def _resample(self, images: Tensor, offsets: Tensor) -> Tensor:
        """The pixels [N, C, S, S] between those of the padded images, bilinear."""
        padded = images.float()
        if self.pad:
            padded = F.pad(padded, (self.pad,) * 4, mode="replicate")
        x, y = self.lines[offsets].unbind(1)  # [N, S]
        grid = x[:, None, :] + (1j * y)[:, :, None]  # [N, S, S], complex: one pass writes the pairs of places
        return F.grid_sample(padded, torch.view_as_real(grid), align_corners=False)


def resampled_lines(padded_size: int, crop_size: int) -> Tensor:
    """Places at which the output's lines of pixels are read for each offset, float32 [offsets, crop].

    In `grid_sample`'s unit: -1 and 1 are the outer edges of the padded image.
    """
    offset = torch.arange(padded_size - crop_size + 1, dtype=torch.float64)[:, None]
    k = torch.arange(crop_size, dtype=torch.float64)
    position = (offset + (k + 0.5) * (crop_size - 1) / crop_size) * padded_size / (padded_size - 1) - 0.5
    return ((2 * position + 1) / padded_size - 1).float()


def intensity_factor(
    count: int, scale: float, limit: float, generator: torch.Generator, device: torch.device | str
) -> Tensor:
    """One brightness factor per image, float32 [N]: 1 + scale * clamp(N(0, 1), -limit, limit)."""
    return 1 + scale * torch.randn(count, generator=generator, device=device).clamp(-limit, limit)


@dataclass(frozen=True)
class View:
    """Images of any leading dimensions and what was drawn for each: an index of these makes the pixels of some.

    A batch that passes in slices so needs no float copy of the whole.
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


def joined(views: Sequence[View]) -> View:
    """Views with a factor, one behind the other in their first dimension."""
    if len(views) == 1:
        return views[0]
    images, offsets, factor = (
        torch.cat([getattr(view, name) for view in views]) for name in ("images", "offsets", "factor")
    )
    return View(views[0].crop, images, offsets, factor)


class Augmentation(nn.Module):
    """Crop, then intensity. Frames [..., C, H, W], uint8 or float -> float32 [..., C, crop, crop], still 0..255.

    Every image of the leading dimensions is drawn on its own: crop x, crop y, then the intensity's normal. The result's
    images lie channels-last. The generator must be on the frames' device. The augmentations of `config.extra` come
    first; with them the module cannot be captured in a CUDA graph. Source: paper, appendix B.
    """

    def __init__(self, config: AugmentationConfig, image_size: int, crop_size: int):
        super().__init__()
        self.crop = RandomCrop(image_size, crop_size, config.pad, config.crop)
        self.intensity = config.intensity
        self.intensity_clamp = config.intensity_clamp
        self.extra: list[Callable[[Tensor, torch.Generator], Tensor]] = []
        if config.extra:
            from mlr.extra_augmentation import EXTRA  # imports kornia, an optional dependency

            self.extra = [EXTRA[name] for name in config.extra]

    def forward(self, frames: Tensor, generator: torch.Generator) -> Tensor:
        return self.view(frames, generator)[...]

    def view(self, frames: Tensor, generator: torch.Generator) -> View:
        """A view of frames that is drawn now and cropped slice by slice."""
        images, leading = frames.reshape(-1, *frames.shape[-3:]), frames.shape[:-3]
        for augment in self.extra:
            images = augment(images.float(), generator)
        offsets = self.crop.draw(len(images), generator, images.device)
        factor = intensity_factor(len(images), self.intensity, self.intensity_clamp, generator, images.device)
        return View(self.crop, *(part.view(*leading, *part.shape[1:]) for part in (images, offsets, factor)))
