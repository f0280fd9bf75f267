"""Precision of products: the one place that knows the meaning of `precision`."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch

Autocast = Callable[[], AbstractContextManager]


def make_autocast(precision: str, device: torch.device) -> Autocast:
    """A maker of the context in which encoders and the decoder run: products in bfloat16 if `precision` is bf16.

    Norms, softmax, losses and everything outside it stay float32, and so do weights and optimiser states.
    """
    return partial(torch.autocast, device.type, torch.bfloat16) if precision == "bf16" else nullcontext


def set_precision(precision: str, deterministic: bool) -> None:
    """Sets, for this process, what a float32 product on a GPU is, and whether its kernels may add up in any order.

    fp32 multiplies in full float32; tf32 and bf16 let what is left in float32 use TF32, with 10 bits of mantissa. A CPU
    always multiplies in full.
    """
    # The older of torch's two interfaces: after its newer setters the older getters, which inductor calls, raise.
    torch.set_float32_matmul_precision("highest" if precision == "fp32" else "high")
    torch.backends.cudnn.allow_tf32 = precision != "fp32"
    torch.backends.mkldnn.matmul.fp32_precision = "ieee"  # "high" is for a CPU too
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False  # partial sums in float32
    torch.backends.cudnn.benchmark = not deterministic  # shapes are static: the fastest kernel is looked for once
    torch.backends.cudnn.benchmark_limit = 0  # among all of cuDNN's kernels, not its first ten
    if deterministic != torch.are_deterministic_algorithms_enabled():  # the call imports torch's compiler
        torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing reads it
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
