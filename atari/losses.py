"""Categorical (C51) value distributions: projection, loss and priority (Bellemare et al. 2017).

`B` batch, `A` actions, `N` atoms. Every function is pure; atoms are equally spaced.
"""

import torch
from torch import Tensor


def support(v_min: float, v_max: float, atoms: int, device: torch.device) -> Tensor:
    """Returns the returns that the atoms stand for: float32 [N], from `v_min` to `v_max`, both included."""
    return torch.linspace(v_min, v_max, atoms, device=device)


def expected_value(probs: Tensor, support: Tensor) -> Tensor:
    """Returns the mean of distributions `probs` [..., N] over `support` [N]: [...]."""
    return (probs * support).sum(dim=-1)


def of_action(distributions: Tensor, action: Tensor) -> Tensor:
    """Picks from `distributions` [B, A, N] those of `action` int64 [B]: [B, N]."""
    # Not gather: its deterministic backward pass takes a table from the host, which a capture forbids.
    taken = action[:, None] == torch.arange(distributions.shape[1], device=action.device)  # [B, A]
    return torch.where(taken[:, :, None], distributions, 0.0).sum(dim=1)


def project_distribution(
    probs: Tensor, returns: Tensor, done: Tensor, discount: float | Tensor, support: Tensor
) -> Tensor:
    """Distributes bootstrapped returns onto the atoms: the target distribution [B, N], each row summing to one.

    `probs` [B, N] belongs to the observation n steps later, `returns` [B] is the n-step return. `done` bool [B] stops
    the bootstrap, `discount` is already raised to n. Returns beyond the support go to its ends.
    Source: Bellemare et al. 2017, algorithm 1, as a dense product instead of two scatters.
    """
    low, high = support[0], support[-1]
    spacing = (high - low) / (len(support) - 1)  # support[1] - support[0] would cancel digits
    bootstrap = discount * (~done).to(probs.dtype)  # [B]
    shifted = (returns[:, None] + bootstrap[:, None] * support).clamp(low, high)  # [B, N] by source atom
    distance = (shifted[:, None, :] - support[:, None]).abs() / spacing  # [B, N target, N source]
    share = (1 - distance).clamp(0, 1)
    return (share * probs[:, None, :]).sum(dim=-1)


def categorical_loss(log_probs: Tensor, target: Tensor) -> Tensor:
    """Returns the cross entropy [B] of `log_probs` [B, N] to the distribution `target` [B, N]."""
    return -(target * log_probs).sum(dim=-1)


@torch.no_grad()
def categorical_kl(log_probs: Tensor, target: Tensor, floor: float, ceiling: float) -> Tensor:
    """Returns the divergence KL(target || probs) [B] for the priorities, without gradient, in floor..ceiling.

    `log_probs` and `target` are [B, N]; the target's probabilities are raised to at least `floor` here and only here.
    """
    target = target.clamp(floor, 1)
    return (target * (target.log() - log_probs)).sum(dim=-1).clamp(floor, ceiling)
