"""Policy on latent states: normals truncated to the actions' bounds, -1 and 1.

`N` states, `F` width of their feature, `A` actions.
"""

import math

import torch
from torch import Tensor, nn

from mwm.networks import MLP

LOG_SQRT_2_PI_E = 0.5 * math.log(2 * math.pi * math.e)
SQRT_2_PI = math.sqrt(2 * math.pi)


class Actor(nn.Module):
    """Means in -1..1 and deviations in min_std..1 of features [..., F], each [..., A]."""

    def __init__(self, inputs: int, widths: list[int], actions: int, min_std: float):
        super().__init__()
        self.min_std = min_std
        self.mlp = MLP(inputs, widths, actions)
        self.std = nn.Linear(widths[-1], actions)

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.mlp.hidden(feature)
        mean, raw = self.mlp.out(hidden).float().tanh(), self.std(hidden).float()
        return mean, self.min_std + (1 - self.min_std) * raw.sigmoid()

    def mean(self, feature: Tensor) -> Tensor:
        return self.mlp(feature).float().tanh()


def truncated_sample(mean: Tensor, std: Tensor, uniforms: Tensor, gradient: str) -> Tensor:
    """Actions [..., A]: the inverse of the distribution function at `uniforms` float64 [..., A] in [0, 1).

    gradient "pathwise": the derivative of that. "released": as TensorFlow's operation has it, which leaves out that the
    bounds move against the mean; then the derivative is 1 for the mean and (action - mean) / std for the deviation.
    """
    low, high = ((bound - mean.detach().double()) / std.detach().double() for bound in (-1.0, 1.0))
    below = torch.special.ndtr(low)
    mass = torch.special.ndtr(high) - below
    z = torch.special.ndtri(below + uniforms * mass)
    z = torch.maximum(torch.minimum(z, high), low)
    by_mean, by_std = torch.ones_like(z), z
    if gradient == "pathwise":
        at_low = (1 - uniforms) * ((z.square() - low.square()) / 2).exp()
        at_high = uniforms * ((z.square() - high.square()) / 2).exp()
        by_mean, by_std = 1 - at_low - at_high, z - low * at_low - high * at_high
    action = (mean.detach() + std.detach() * z).to(mean.dtype).clamp(-1, 1)
    return action + by_mean.to(mean.dtype) * (mean - mean.detach()) + by_std.to(mean.dtype) * (std - std.detach())


def truncated_entropy(mean: Tensor, std: Tensor) -> Tensor:
    """Entropies [...] of the actions together, with their exact gradient."""
    low, high = (-1 - mean) / std, (1 - mean) / std
    mass = torch.special.ndtr(high) - torch.special.ndtr(low)
    density = [(-edge.square() / 2).exp() / SQRT_2_PI for edge in (low, high)]
    bent = (low * density[0] - high * density[1]) / (2 * mass)
    return (LOG_SQRT_2_PI_E + (std * mass).log() + bent).sum(-1)
