"""Networks of the DMControl agent: pixel encoder, policy, two Q heads.

`B` batch, `N` any number of images, `C, H, W` image, `M, h, w` last map, `D` latent, `A` actions.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmcontrol.config import AgentConfig, EncoderConfig, map_sides
from harness.convolution import ConvReLU
from harness.pixels import PixelConv2d
from mlr.masking import StageMask

KERNEL = 3  # pixels a side, of every convolution


class CentreCrop(nn.Module):
    """The window [..., size, size] in the middle of images [..., H, W]; where the margin is odd, up and left of it."""

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        top, left = ((side - self.size) // 2 for side in images.shape[-2:])
        return images[..., top : top + self.size, left : left + self.size]


class Convolutions(nn.Module):
    """Pixels [N, C, H, W] of any dtype in 0..255 to the last map [N, M, h, w]; `out_features` is its M * h * w.

    `stages` are the named steps: convolutions 3x3 without padding, each with its ReLU. A mask hides what leaves one.
    """

    def __init__(self, config: EncoderConfig, in_channels: int, crop_size: int):
        super().__init__()
        self.stages = nn.ModuleDict()
        for number, stride in enumerate(config.strides, start=1):
            convolution = PixelConv2d if number == 1 else nn.Conv2d
            channels = in_channels if number == 1 else config.filters
            self.stages[f"conv{number}"] = ConvReLU(convolution(channels, config.filters, KERNEL, stride))
        self.out_features = config.filters * map_sides(config, crop_size)[-1] ** 2
        self.to(memory_format=torch.channels_last)  # for pixels that lie otherwise; crops do not

    def forward(self, pixels: Tensor, stage_mask: StageMask | None = None) -> Tensor:
        features = pixels if pixels.dtype == torch.bfloat16 else pixels.float()
        for name, stage in self.stages.items():
            features = stage(features)
            if stage_mask is not None:
                features = stage_mask(name, features)
        return features


class MapLinear(nn.Linear):
    """Linear layer on maps [N, M, h, w], flattened in this order, although they lie in memory channels-last."""

    def forward(self, maps: Tensor) -> Tensor:
        if len(maps) < self.out_features:  # whichever is smaller is brought into the order of the other
            return super().forward(maps.flatten(1))
        weight = self.weight.unflatten(1, maps.shape[1:]).movedim(1, -1)
        return F.linear(maps.movedim(1, -1).flatten(1), weight.flatten(1), self.bias)


class Latent(nn.Module):
    """Maps [N, M, h, w] to latents [N, D]: a linear layer, LayerNorm, and tanh where `config` has it."""

    def __init__(self, in_features: int, config: EncoderConfig):
        super().__init__()
        self.fc = MapLinear(in_features, config.latent)
        self.ln = nn.LayerNorm(config.latent)
        self.tanh = config.tanh

    def forward(self, maps: Tensor) -> Tensor:
        latent = self.ln(self.fc(maps).float())
        return latent.tanh() if self.tanh else latent


class PixelEncoder(nn.Module):
    """Pixels [N, C, H, W] of any dtype in 0..255 to latents [N, D]."""

    def __init__(self, config: EncoderConfig, in_channels: int, crop_size: int):
        super().__init__()
        self.convolutions = Convolutions(config, in_channels, crop_size)
        self.latent = Latent(self.convolutions.out_features, config)

    def forward(self, pixels: Tensor, stage_mask: StageMask | None = None) -> Tensor:
        return self.latent(self.convolutions(pixels, stage_mask))


class Actor(nn.Module):
    """Gaussian policy on maps [B, M, h, w] of the critic's convolutions, with a latent of its own.

    forward -> mean and logarithm of the standard deviation before the squashing, each [B, A].
    """

    def __init__(self, config: AgentConfig, in_features: int, action_size: int):
        super().__init__()
        self.log_std_min, self.log_std_max = config.log_std_min, config.log_std_max
        self.latent = Latent(in_features, config.encoder)
        self.policy = mlp(config.encoder.latent, config.hidden, config.hidden, 2 * action_size)

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = self.policy(self.latent(maps)).chunk(2, dim=-1)
        share = (raw.tanh() + 1) / 2
        return mean, self.log_std_min + (self.log_std_max - self.log_std_min) * share


class QHeads(nn.Module):
    """Two independent action values of latents [B, D] and actions [B, A]: [2, B]."""

    def __init__(self, config: AgentConfig, action_size: int):
        super().__init__()
        sizes = (config.encoder.latent + action_size, config.hidden, config.hidden, 1)
        self.q1 = mlp(*sizes)
        self.q2 = mlp(*sizes)

    def forward(self, latent: Tensor, action: Tensor) -> Tensor:
        inputs = torch.cat((latent, action), dim=-1)
        return torch.stack((self.q1(inputs), self.q2(inputs))).squeeze(-1)


def mlp(*sizes: int) -> nn.Sequential:
    """Linear layers of these widths with ReLU between them."""
    layers = []
    for inputs, outputs in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@torch.no_grad()
def init_orthogonal(module: nn.Module) -> None:
    """Draws linear layers orthogonal and convolutions delta-orthogonal: only the centre tap is not zero; no biases.

    Transposed convolutions are drawn alike. Source: Xiao et al. 2018, section 3; released code.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight)
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.zeros_(layer.weight)
            row, column = (side // 2 for side in layer.kernel_size)
            nn.init.orthogonal_(layer.weight[:, :, row, column], gain=math.sqrt(2))
            nn.init.zeros_(layer.bias)


@torch.no_grad()
def init_truncated_normal(module: nn.Module, std: float) -> None:
    """Draws linear layers from a normal cut at one `std`, which leaves a spread of 0.54 of it; no biases."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=std, a=-std, b=std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
