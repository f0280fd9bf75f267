"""Momentum targets: frozen copies of online modules that follow them."""

import copy
from typing import TypeVar

import torch
from torch import nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def frozen_copy(module: ModuleT) -> ModuleT:
    """A deep copy in evaluation mode, with parameters of its own that take no gradient."""
    return copy.deepcopy(module).eval().requires_grad_(False)


@torch.no_grad()
def momentum_update(target: nn.Module, online: nn.Module, tau: float) -> None:
    """target <- (1 - tau) * target + tau * online, in place, over the parameters.

    `tau` is the weight of the online network; 1 copies exactly.
    """
    targets = list(target.parameters())
    if targets:  # a projector may be the identity
        torch._foreach_lerp_(targets, list(online.parameters()), tau)
