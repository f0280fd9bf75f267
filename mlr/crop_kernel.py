"""Kernel of a GPU for crop, brightness, cast and layout in one pass; mlr/augmentation.py says what it computes.

Importing it needs Triton, which torch's CUDA build brings.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 128  # pixels of a line at once


@triton.jit
def crop_kernel(
    images, lines, offsets, factor, out,
    H: tl.constexpr, S: tl.constexpr, PAD: tl.constexpr, C: tl.constexpr, CP: tl.constexpr, BX: tl.constexpr,
    RESAMPLE: tl.constexpr, SCALE: tl.constexpr,
):  # fmt: skip
    """Writes line y of output image n: images uint8 [N, C, H, H] -> out [N, S, S, CP], zero beyond channel C."""
    n = tl.program_id(0).to(tl.int64)
    y = tl.program_id(1)
    c = tl.arange(0, CP)
    left = tl.load(offsets + 2 * n)
    top = tl.load(offsets + 2 * n + 1)
    planes = images + n * (C * H * H) + c * (H * H)
    for start in tl.static_range(0, S, BX):
        x = start + tl.arange(0, BX)
        inside = x < S
        if RESAMPLE:
            P: tl.constexpr = H + 2 * PAD
            # grid_sample's pixel coordinates without aligned corners, in the padded image.
            ix = ((tl.load(lines + left * S + x, mask=inside, other=0.0) + 1) * P - 1) / 2
            iy = ((tl.load(lines + top * S + y) + 1) * P - 1) / 2
            x0 = tl.floor(ix)
            y0 = tl.floor(iy)
            total = tl.zeros([CP, BX], tl.float32)
            for corner in tl.static_range(4):
                xx = x0.to(tl.int32) + corner % 2
                yy = y0.to(tl.int32) + corner // 2
                right = ix - x0 if corner % 2 == 1 else (x0 + 1) - ix
                low = iy - y0 if corner // 2 == 1 else (y0 + 1) - iy
                there = inside & (xx >= 0) & (xx < P) & (yy >= 0) & (yy < P)
                column = tl.minimum(tl.maximum(xx - PAD, 0), H - 1)
                row = tl.minimum(tl.maximum(yy - PAD, 0), H - 1)
                place = planes[:, None] + (row * H + column)[None, :]
                value = tl.load(place, mask=there[None, :] & (c < C)[:, None], other=0)
                total += value.to(tl.float32) * (right * low)[None, :]
        else:
            column = tl.minimum(tl.maximum(left + x - PAD, 0), H - 1)
            row = tl.minimum(tl.maximum(top + y - PAD, 0), H - 1)
            place = planes[:, None] + (row * H + column)[None, :]
            total = tl.load(place, mask=inside[None, :] & (c < C)[:, None], other=0).to(tl.float32)
        if SCALE:
            total = total * tl.load(factor + n)
        target = out + ((n * S + y) * S + x)[None, :] * CP + c[:, None]
        tl.store(target, total.to(out.dtype.element_ty), mask=inside[None, :])


def padded_channels(channels: int) -> int:
    """Channels of the result: a power of two from 8 on, so that a pixel is stored 16 bytes at a time."""
    return max(8, triton.next_power_of_2(channels))


def crop(
    images: Tensor,
    offsets: Tensor,
    factor: Tensor | None,
    lines: Tensor | None,
    pad: int,
    size: int,
    dtype: torch.dtype,
) -> Tensor:
    """Crops images uint8 [N, C, H, H] at `offsets` int64 [N, 2] (x, y): [N, padded, size, size], channels-last.

    With `lines` the padded image is resampled, without it a window is cut; `factor` float32 [N] scales each image.
    """
    count, channels, height, _ = images.shape
    padded = padded_channels(channels)
    out = torch.empty(count, size, size, padded, dtype=dtype, device=images.device)
    unread = out  # stands for a tensor that a variant has no use for
    crop_kernel[(count, size)](
        images.contiguous(), unread if lines is None else lines, offsets.contiguous(),
        unread if factor is None else factor.contiguous(), out,
        H=height, S=size, PAD=pad, C=channels, CP=padded, BX=BLOCK,
        RESAMPLE=lines is not None, SCALE=factor is not None,
    )  # fmt: skip
    return out.permute(0, 3, 1, 2)
