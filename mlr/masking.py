"""Space-time masks: which cells of which steps of a clip are hidden from the online encoder.

A mask is boolean and True where hidden. One mask serves the whole batch, all channels and all stacked frames.

K steps of a clip, g cells a side (`image_size // patch_size`), H W pixels, T time (= K), B batch, C channels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mlr.cells import hidden_count
from mlr.config import MaskConfig


def sample_mask(
    config: MaskConfig, seq_len: int, image_size: int, generator: torch.Generator, device: torch.device | str
) -> Tensor:
    """Draws one mask, bool [1, K, g, g].

    cube: `cube_depth` consecutive steps share one permutation of the grid; spatial: every step has its own;
    temporal: whole frames are hidden; none: nothing is, and nothing drawn. Each block hides exactly `hidden_count`
    cells (temporal: frames). Source: paper, section 3.1.
    """
    grid = image_size // config.patch_size
    if config.strategy == "none":
        return torch.zeros(1, seq_len, grid, grid, dtype=torch.bool, device=device)
    if config.strategy == "temporal":
        hidden = _hide_exactly(1, seq_len, config, generator, device)
        return hidden[:, :, None, None].expand(1, seq_len, grid, grid)
    depth = config.cube_depth if config.strategy == "cube" else 1
    hidden = _hide_exactly(seq_len // depth, grid * grid, config, generator, device)
    return hidden[:, None].expand(-1, depth, -1).reshape(1, seq_len, grid, grid)


def enlarge(mask: Tensor, size: int) -> Tensor:
    """Cells to pixels: bool [..., g, g] -> bool [..., size, size]; pixel i belongs to cell floor(i * g / size)."""
    cell = torch.arange(size, device=mask.device) * mask.shape[-1] // size
    return mask.index_select(-2, cell).index_select(-1, cell)


def hide(frames: Tensor, mask: Tensor) -> Tensor:
    """Frames [T, B, C, H, W] with the pixels hidden by `mask` bool [1, K, g, g] set to 0; the dtype stays."""
    hidden = enlarge(mask, frames.shape[-1])[0, :, None, None]  # [T, 1, 1, H, W]
    return frames * hidden.logical_not().to(frames.dtype)


@dataclass(frozen=True)
class StageMask:
    """A mask for the features that leave one stage of an encoder, in place of pixels. mask: bool [1, K, g, g]."""

    stage: str
    mask: Tensor

    def __call__(self, stage: str, features: Tensor) -> Tensor:
        """Features [T * B, C, H, W] with the hidden ones set to 0 if they left `self.stage`, otherwise as they are."""
        if stage != self.stage:
            return features
        return hide(features.unflatten(0, (self.mask.shape[1], -1)), self.mask).flatten(0, 1)


def _hide_exactly(
    blocks: int, cells: int, config: MaskConfig, generator: torch.Generator, device: torch.device | str
) -> Tensor:
    """bool [blocks, cells] with the same number of True in each row, every choice of cells equally likely."""
    count = hidden_count(cells, config.ratio, config.rounding)
    permutation = torch.rand(blocks, cells, generator=generator, device=device).argsort(dim=-1)
    return permutation < count
