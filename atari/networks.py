"""Networks of the Atari agent: encoder, noisy dueling distributional head, and what MLR borrows from them.

`B` batch (for the encoder any number of images), `C, H, W` image, `D` latent, `A` actions, `N` atoms, `h` hidden width.
The latent is the last map, renormalised per sample and flattened: D = channels * side * side.
"""

import math
from collections.abc import Iterator
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from atari.config import AgentConfig, EncoderConfig, map_sides
from atari.impala import impala_stages, same_padding
from harness.convolution import ConvReLU
from harness.pixels import PixelConv2d
from mlr.cells import Layer
from mlr.fast_decoder import Chosen
from mlr.masking import StageMask

Noise = tuple[Tensor, Tensor]  # factors of one noisy layer: [..., in], [..., out]


def renormalize(features: Tensor) -> Tensor:
    """Shifts and scales every sample of `features` [B, ...] to 0..1; minimum and maximum carry gradient.

    A constant sample gives zeros. The released code divides 0 by 0 there and stays NaN for good.
    """
    values = features.flatten(1)
    # Not torch.aminmax: that of torch 2.11 has no derivative.
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)  # [B, 1]
    span = high - low
    # A replaced divisor, not an added epsilon: every other result keeps its bits.
    span = torch.where(span == 0, torch.ones_like(span), span)
    return ((values - low) / span).view(features.shape)


class ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


def scale_gradient(values: Tensor, factor: float) -> Tensor:
    """Returns `values` unchanged; the gradient that comes back through the result is multiplied by `factor`."""
    return ScaleGradient.apply(values, factor)


class Encoder(nn.Module):
    """Pixels [B, C, H, W] of any dtype in 0..255 to renormalised latents [B, D] (docs/protocol.md).

    `stages` are the named steps from pixels to the last map; a mask hides what leaves one of them, before the
    renormalisation. `latent_dim` is D for frames of `image_size` pixels.
    """

    def __init__(self, config: EncoderConfig, in_channels: int, image_size: int):
        super().__init__()
        made = (impala_stages if config.kind == "impala" else conv_stages)(config, in_channels, image_size)
        self.stages = nn.ModuleDict({f"conv{number}": stage for number, stage in enumerate(made, start=1)})
        self.latent_dim = config.channels[-1] * map_sides(config, image_size)[-1] ** 2

    def forward(self, pixels: Tensor, stage_mask: StageMask | None = None) -> Tensor:
        # Channels last is faster, in the backward pass above all: docs/performance.md.
        dtype = torch.bfloat16 if pixels.dtype == torch.bfloat16 else torch.float32
        features = pixels.to(dtype, memory_format=torch.channels_last)
        for name, stage in self.stages.items():
            features = stage(features)
            if stage_mask is not None:
                features = stage_mask(name, features)
        return renormalize(features.float()).flatten(1)  # [B, D]


def conv_stages(config: EncoderConfig, channels: int, size: int) -> Iterator[nn.Sequential]:
    """A convolution and a ReLU each."""
    for number, (width, kernel, stride) in enumerate(zip(config.channels, config.kernels, config.strides, strict=True)):
        stage = ConvReLU((PixelConv2d if number == 0 else nn.Conv2d)(channels, width, kernel, stride))
        if config.padding == "same":
            stage = nn.Sequential(nn.ZeroPad2d(same_padding(size, kernel, stride)), stage)
        yield stage
        channels, size = width, -(-size // stride)  # read with padding alone


def stage_layers(config: EncoderConfig, size: int) -> list[list[Layer]]:
    """Convolutions and maximum of each stage of an encoder of frames of `size` pixels."""
    stages, convolution = [], (3, 1, 2)  # convolution of a residual stage
    for kernel, stride in zip(config.kernels, config.strides, strict=True):
        padding = sum(same_padding(size, kernel, stride)[:2]) if config.padding == "same" else 0
        layer, size = (kernel, stride, padding), (size + padding - kernel) // stride + 1
        stages.append([layer] if config.kind == "conv" else [convolution, layer, *[convolution] * 2 * config.blocks])
    return stages


class NoisyLinear(nn.Module):
    """Linear layer with factorised Gaussian noise on weight and bias (Fortunato et al. 2018, section 3b).

    forward(inputs [..., in], noise or None) -> [..., out]; `noise` is ([..., in], [..., out]), already f(x) of
    `signed_sqrt`. None leaves the mean weights. Without `sigma0` there is nothing else.
    """

    def __init__(self, in_features: int, out_features: int, sigma0: float | None):
        super().__init__()
        self.mean = nn.Linear(in_features, out_features)  # the library draws uniform in +-1/sqrt(in), as specified
        if sigma0 is None:
            return
        self.weight_sigma = nn.Parameter(torch.full((out_features, in_features), sigma0 / math.sqrt(in_features)))
        # Released code: the bias takes the output width, the weight the input width.
        self.bias_sigma = nn.Parameter(torch.full((out_features,), sigma0 / math.sqrt(out_features)))

    def forward(self, inputs: Tensor, noise: Noise | None) -> Tensor:
        outputs = self.mean(inputs)
        if noise is None:
            return outputs
        noise_in, noise_out = noise
        # The weight noise is an outer product, so it factors out: no [out, in] noise matrix is built.
        return outputs + noise_out * F.linear(inputs * noise_in, self.weight_sigma, self.bias_sigma)


def signed_sqrt(values: Tensor) -> Tensor:
    """f(x) = sign(x) sqrt(|x|), which turns standard normals into noise factors (Fortunato et al. 2018)."""
    return values.sign() * values.abs().sqrt()


class Head(nn.Module):
    """Noisy dueling distributional head: latent [..., D] to logits over atoms [..., A, N] (Hessel et al. 2018).

    `noise` [noise_size] holds the factors of all layers, `draw_noise` makes it; with more dimensions it broadcasts
    against the latents'. None uses the mean weights, and train/eval mode has no say in it. A head without noise takes
    empty factors. The gradient scale between head and encoder is the caller's. Auxiliaries borrow the `projector`, the
    hidden layers' mean weights.
    """

    def __init__(self, actions: int, config: AgentConfig):
        super().__init__()
        self.actions, self.atoms = actions, config.atoms
        self.sigma0 = config.noisy_sigma0 if config.noisy else None

    @cached_property
    def noise_sizes(self) -> list[int]:
        """Sizes of the layers' inputs and outputs, in the order of their definition; none without noise."""
        means = [layer.mean for layer in self.children()] if self.sigma0 is not None else []
        return [size for mean in means for size in (mean.in_features, mean.out_features)]

    @property
    def noise_size(self) -> int:
        return sum(self.noise_sizes)

    def draw_noise(self, generator: Generator, device: torch.device) -> Tensor:
        """Returns fresh factors [noise_size], layer by layer the inputs' and the outputs'."""
        if not self.noise_sizes:
            return torch.empty(0, device=device)
        return signed_sqrt(torch.randn(self.noise_size, generator=generator, device=device))

    def per_layer(self, noise: Tensor | None) -> list[Noise] | list[None]:
        if noise is None or not self.noise_sizes:
            return [None] * len(list(self.children()))
        factors = noise.split(self.noise_sizes, dim=-1)
        return list(zip(factors[::2], factors[1::2], strict=True))

    def _logits(self, advantage: Tensor, value: Tensor) -> Tensor:
        advantage = advantage.unflatten(-1, (self.actions, self.atoms))  # [B, A, N]
        return value.unsqueeze(-2) + advantage - advantage.mean(dim=-2, keepdim=True)


class DuelingHead(Head):
    """Two streams, each with a hidden layer of its own. Noise: advantage hidden, advantage out, value hidden, out."""

    def __init__(self, latent_dim: int, actions: int, config: AgentConfig):
        super().__init__(actions, config)
        hidden, atoms, sigma0 = config.hidden, self.atoms, self.sigma0
        self.advantage_hidden = NoisyLinear(latent_dim, hidden, sigma0)
        self.advantage_out = NoisyLinear(hidden, actions * atoms, sigma0)
        self.value_hidden = NoisyLinear(latent_dim, hidden, sigma0)
        self.value_out = NoisyLinear(hidden, atoms, sigma0)

    @property
    def projector(self) -> nn.Module:
        return HeadProjector(self)

    def forward(self, latent: Tensor, noise: Tensor | None) -> Tensor:
        advantage_hidden, advantage_out, value_hidden, value_out = self.per_layer(noise)
        advantage = self.advantage_out(F.relu(self.advantage_hidden(latent, advantage_hidden)), advantage_out)
        value = self.value_out(F.relu(self.value_hidden(latent, value_hidden)), value_out)
        return self._logits(advantage, value)


class SharedHead(Head):
    """One hidden layer for value and advantage. Source: bigger_better_faster. Noise: hidden, advantage, value."""

    def __init__(self, latent_dim: int, actions: int, config: AgentConfig):
        super().__init__(actions, config)
        hidden, atoms, sigma0 = config.hidden, self.atoms, self.sigma0
        self.hidden = NoisyLinear(latent_dim, hidden, sigma0)
        self.advantage_out = NoisyLinear(hidden, actions * atoms, sigma0)
        self.value_out = NoisyLinear(hidden, atoms, sigma0)

    @property
    def projector(self) -> nn.Module:
        return self.hidden.mean

    def forward(self, latent: Tensor, noise: Tensor | None) -> Tensor:
        hidden_noise, advantage_noise, value_noise = self.per_layer(noise)
        hidden = F.relu(self.hidden(latent, hidden_noise))
        return self._logits(self.advantage_out(hidden, advantage_noise), self.value_out(hidden, value_noise))


def make_networks(config: AgentConfig, frame_stack: int, image_size: int, actions: int) -> tuple[Encoder, Head]:
    encoder = Encoder(config.encoder, frame_stack, image_size)
    head = (SharedHead if config.head == "shared" else DuelingHead)(encoder.latent_dim, actions, config)
    if config.init == "xavier":
        for layer in (*encoder.modules(), *head.modules()):
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
    return encoder, head


class HeadProjector(nn.Module):
    """MLR's projector on Atari: the head's own first layers, value then advantage, mean weights, no ReLU.

    forward(latent [..., D]) -> [..., 2h]. It refers to the head's layers; a deep copy of it holds these and no others.
    """

    def __init__(self, head: DuelingHead):
        super().__init__()
        self.value = head.value_hidden.mean
        self.advantage = head.advantage_hidden.mean

    def forward(self, latent: Tensor) -> Tensor:
        return torch.cat((self.value(latent), self.advantage(latent)), dim=-1)


class ActionEmbedding(nn.Module):
    """Embeds actions int64 [B, T] as a Linear of their one-hot: to choices among A embeddings of width D."""

    def __init__(self, actions: int, dim: int):
        super().__init__()
        self.linear = nn.Linear(actions, dim)

    def forward(self, actions: Tensor) -> Chosen:
        every = torch.arange(self.linear.in_features, device=actions.device)
        one_hot = actions.unsqueeze(-1) == every  # F.one_hot checks its input on the host, which a capture forbids
        return Chosen(self.linear.weight.T + self.linear.bias, one_hot.to(self.linear.weight.dtype))
