"""Scales of rewards: the logarithm that networks predict, and the mean magnitude that imagined ones are divided by."""

import torch
from torch import Tensor, nn

from mlr.reward_head import symlog


def symexp(x: Tensor) -> Tensor:
    """Inverse of `symlog`, element by element."""
    return x.sign() * x.abs().expm1()


def reward_error(predicted: Tensor, reward: Tensor) -> Tensor:
    """Mean squared distance of predictions to the logarithm of rewards, both of one shape."""
    return (predicted.float() - symlog(reward)).square().mean()


class RewardScale(nn.Module):
    """Divides by a moving mean of magnitudes, updated before its use; with a momentum of 1 it stays 1."""

    def __init__(self, momentum: float):
        super().__init__()
        self.momentum = momentum
        self.register_buffer("magnitude", torch.ones((), dtype=torch.float64))

    def forward(self, reward: Tensor) -> Tensor:
        new = reward.detach().abs().double().mean()
        self.magnitude.mul_(self.momentum).add_(new * (1 - self.momentum))
        return reward / (self.magnitude + 1e-8).to(reward.dtype)
