"""Kernel of a GPU for the backward pass of a bias and a ReLU: one pass over the maps. Importing it needs Triton."""

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = 64  # pixels at once


@triton.jit
def relu_backward_kernel(
    gradient, result, masked, sums, count,
    C: tl.constexpr, CP: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Gradients [count, C] behind a ReLU to those before it, and float32 sums [programs, C] of each program's rows."""
    program = tl.program_id(0)
    row = program.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, CP)
    inside = (row < count)[:, None] & (channel < C)[None, :]
    place = row[:, None] * C + channel[None, :]
    after = tl.load(result + place, mask=inside, other=0.0)
    values = tl.load(gradient + place, mask=inside, other=0.0)
    values = tl.where(after <= 0, 0.0, values.to(tl.float32))
    tl.store(masked + place, values.to(masked.dtype.element_ty), mask=inside)
    tl.store(sums + program * C + channel, tl.sum(values, 0), mask=channel < C)


def relu_backward(gradient: Tensor, result: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient before a ReLU with `result` [N, C, h, w], and its sum [C], the bias's gradient."""
    gradient, result = (each.contiguous(memory_format=torch.channels_last) for each in (gradient, result))
    channels, count = result.shape[1], result.numel() // result.shape[1]
    programs = triton.cdiv(count, ROWS)
    masked = torch.empty_like(result, memory_format=torch.channels_last)
    sums = torch.empty(programs, channels, device=result.device)
    padded = triton.next_power_of_2(channels)
    relu_backward_kernel[(programs,)](gradient, result, masked, sums, count, C=channels, CP=padded, ROWS=ROWS)
    return masked, sums.sum(0).to(result.dtype)
