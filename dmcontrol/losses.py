"""Losses of soft actor-critic with a squashed Gaussian policy (Haarnoja et al. 2018).

`B` batch, `A` actions; Q values come in pairs [2, B]. Every function is pure.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def squashed_sample(mean: Tensor, log_std: Tensor, noise: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """Actions tanh(mean + std * noise) [B, A] in -1..1 and their log-probabilities [B]; all tensors are [B, A].

    `floor` is added to the squashing's slope before its logarithm, as MLR's released code does. With 0 the logarithm
    is exact, from the values before the squashing.
    """
    values = mean + noise * log_std.exp()
    action = values.tanh()
    log_normal = (-0.5 * noise.square() - log_std).sum(-1) - 0.5 * math.log(2 * math.pi) * noise.shape[-1]
    if floor > 0:
        log_slope = (F.relu(1 - action.square()) + floor).log()
    else:
        log_slope = 2 * (math.log(2) - values - F.softplus(-2 * values))
    return action, log_normal - log_slope.sum(-1)


def q_target(
    reward: Tensor, bootstrap: Tensor, next_q: Tensor, next_log_prob: Tensor, temperature: Tensor, discount: float
) -> Tensor:
    """Targets [B] of Q values: the reward plus `bootstrap` [B] times the smaller soft value of `next_q` [2, B]."""
    value = next_q.amin(dim=0) - temperature * next_log_prob
    return reward + bootstrap * discount * value


def mean_target(targets: list[Tensor]) -> Tensor:
    """Mean over the targets [B] of several views; that of a single one is itself."""
    return sum(targets[1:], targets[0]) / len(targets) if len(targets) > 1 else targets[0]


def critic_loss(q: Tensor, target: Tensor) -> Tensor:
    """Sum over the two heads `q` [2, B] of the mean squared distance to `target` [B]."""
    return (q - target).square().mean(dim=-1).sum()


def actor_loss(q: Tensor, log_prob: Tensor, temperature: Tensor) -> Tensor:
    """Mean over the batch of temperature * log_prob [B] minus the smaller of `q` [2, B]."""
    return (temperature * log_prob - q.amin(dim=0)).mean()


def temperature_loss(log_temperature: Tensor, log_prob: Tensor, target_entropy: float) -> Tensor:
    """Grows the temperature while the policy's entropy is below its target; `log_prob` [B] carries no gradient."""
    return (log_temperature.exp() * (-log_prob.detach() - target_entropy)).mean()


def learning_rate_factor(updates: Tensor, warmup: int, start: float) -> Tensor:
    """Factor after `updates` int64 []: linear from `start` to 1 over `warmup` updates, then sqrt(warmup / updates).

    Without a warm-up it is always 1.
    """
    updates = updates.double()
    if warmup == 0:
        return torch.ones_like(updates)
    rising = start + (1 - start) * updates / warmup
    falling = (warmup / updates.clamp(min=1)).sqrt()
    return torch.where(updates < warmup, rising, falling)
