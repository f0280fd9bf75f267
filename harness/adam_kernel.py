"""Kernel of a GPU for Adam's step of a float32 weight from a bfloat16 gradient. Importing it needs Triton."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024  # values at once


@triton.jit
def adam_kernel(
    weight, gradient, first, second, shadow, scale, decayed, count,
    LR: tl.constexpr, BETA1: tl.constexpr, BETA2: tl.constexpr, EPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Steps `count` values and their moments, all float32, in place, and writes the values to `shadow` as well.

    scale: divisor of the gradients; decayed: beta ** step - 1 of both moments.
    """
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    g = tl.load(gradient + place, mask=inside).to(tl.float32) / tl.load(scale)
    m = tl.load(first + place, mask=inside)
    v = tl.load(second + place, mask=inside)
    m = BETA1 * m + (1 - BETA1) * g
    v = BETA2 * v + (1 - BETA2) * g * g
    size = LR / -tl.load(decayed)
    divisor = tl.sqrt(v) / tl.sqrt(-tl.load(decayed + 1)) + EPS
    w = tl.load(weight + place, mask=inside) - size * m / divisor
    tl.store(first + place, m, mask=inside)
    tl.store(second + place, v, mask=inside)
    tl.store(weight + place, w, mask=inside)
    tl.store(shadow + place, w.to(shadow.dtype.element_ty), mask=inside)


def adam_pass(
    pairs: Sequence[tuple[Tensor, Tensor]], states: Sequence[dict], settings: dict, scale: Tensor, log_betas: Tensor
) -> None:
    """Adam's step of weights with their shadows, which have gradients; all lie in the same order in memory.

    states: `step`, `exp_avg` and `exp_avg_sq` of each; log_betas: float32 [2].
    """
    steps = [state["step"] for state in states]
    torch._foreach_add_(steps, 1)
    decayed = torch.expm1(torch.stack(steps)[:, None] * log_betas)  # float32 keeps its digits
    beta1, beta2 = settings["betas"]
    for (weight, shadow), state, of_weight in zip(pairs, states, decayed.unbind(), strict=True):
        adam_kernel[(triton.cdiv(weight.numel(), BLOCK),)](
            weight, shadow.grad.contiguous(), state["exp_avg"], state["exp_avg_sq"], shadow, scale, of_weight,
            weight.numel(), LR=settings["lr"], BETA1=beta1, BETA2=beta2, EPS=settings["eps"], BLOCK=BLOCK,
        )  # fmt: skip
