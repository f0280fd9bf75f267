"""Adam whose state exists before its first step, so that a checkpoint is copied into it and nothing is rebound."""

from collections.abc import Container, Iterable
from inspect import unwrap

import torch
from torch import Tensor, nn


class Adam(torch.optim.Adam):
    """torch's, except that its methods leave torch's compiler alone: importing that takes as long as torch itself."""

    add_param_group = unwrap(torch.optim.Adam.add_param_group)
    zero_grad = unwrap(torch.optim.Adam.zero_grad)
    step = torch.no_grad()(unwrap(torch.optim.Adam.step))


def make_adam(
    parameters: Iterable[nn.Parameter] | list[dict],
    lr: float | Tensor,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float = 0.0,
    decoupled_decay: float = 0.0,
    clipped: bool = False,
) -> torch.optim.Adam:
    """Adam that runs as one kernel and can be captured; `lr` may be a tensor that changes in place.

    `parameters` may be torch's parameter groups. `clipped`: its steps come after a `clip_in_step`.
    `weight_decay` is added to gradients. `decoupled_decay` makes it AdamW, on parameters of more than one axis alone.
    """
    settings: dict = {"lr": lr, "betas": betas, "eps": eps, "fused": True, "capturable": True}
    if decoupled_decay:
        matrices: list[nn.Parameter] = []
        vectors: list[nn.Parameter] = []
        for parameter in parameters:
            (matrices if parameter.ndim > 1 else vectors).append(parameter)
        groups = ((matrices, decoupled_decay), (vectors, 0.0))
        given = [{"params": group, "weight_decay": decay} for group, decay in groups if group]
        optimizer = Adam(given, decoupled_weight_decay=True, **settings)
    else:
        optimizer = Adam(parameters, weight_decay=weight_decay, **settings)
    for parameter in adam_parameters(optimizer):
        optimizer.state[parameter] = {
            "step": torch.zeros((), device=parameter.device),
            "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
        }
    if clipped:
        device = adam_parameters(optimizer)[0].device
        optimizer.grad_scale = torch.ones((), dtype=torch.float32, device=device)
    return optimizer


def adam_parameters(optimizer: torch.optim.Adam) -> list[nn.Parameter]:
    """Parameters of an optimiser, in its order."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


@torch.no_grad()
def clip_in_step(optimizer: torch.optim.Adam, max_norm: float) -> Tensor:
    """Lets the next step take the gradients at a norm of at most `max_norm`; returns the norm that they have, [].

    The optimiser is a `clipped` one of `make_adam`.

    The step divides them while it reads them, and writes them back divided, where torch's `clip_grad_norm_` goes over
    them once more before it. The factor is the same up to rounding.
    """
    gradients = [parameter.grad for parameter in adam_parameters(optimizer) if parameter.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    optimizer.grad_scale.copy_(((norm + 1e-6) / max_norm).clamp(min=1.0))
    return norm


def clear_adam(optimizer: torch.optim.Adam, kept: Container[int] = ()) -> None:
    """Puts moments and step counts back to zero, in place, but those of parameters whose id is `kept`."""
    for parameter in adam_parameters(optimizer):
        for value in () if id(parameter) in kept else optimizer.state[parameter].values():
            value.zero_()


def adam_state(optimizer: torch.optim.Adam) -> dict[str, dict[str, Tensor]]:
    """Adam's tensors by the number of the parameter, as references."""
    return {str(index): optimizer.state[parameter] for index, parameter in enumerate(adam_parameters(optimizer))}


def load_adam_state(optimizer: torch.optim.Adam, state: dict[str, dict[str, Tensor]]) -> None:
    """Copies an `adam_state` into the tensors that exist."""
    for index, entry in adam_state(optimizer).items():
        for name, value in entry.items():
            value.copy_(state[index][name])
