"""Adam whose state exists before its first step, so that a checkpoint is copied into it and nothing is rebound."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def make_adam(
    parameters: Iterable[nn.Parameter], lr: float | Tensor, betas: tuple[float, float], eps: float
) -> torch.optim.Adam:
    """Adam that runs as one kernel and can be captured; `lr` may be a tensor that changes in place."""
    optimizer = torch.optim.Adam(parameters, lr=lr, betas=betas, eps=eps, fused=True, capturable=True)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter] = {
                "step": torch.zeros((), device=parameter.device),
                "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            }
    return optimizer


def adam_state(optimizer: torch.optim.Adam) -> dict[str, dict[str, Tensor]]:
    """Adam's tensors by the number of the parameter, as references."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {str(index): optimizer.state[parameter] for index, parameter in enumerate(parameters)}


def load_adam_state(optimizer: torch.optim.Adam, state: dict[str, dict[str, Tensor]]) -> None:
    """Copies an `adam_state` into the tensors that exist."""
    for index, entry in adam_state(optimizer).items():
        for name, value in entry.items():
            value.copy_(state[index][name])
