"""Pixel reconstruction as in SAC+AE (Yarats et al. 2019): the latent of an observation gives its pixels back.

B batch, b a slice of it, C stacked channels, S side of a view, D latent.
"""

from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from auxiliaries.config import AutoencoderConfig
from auxiliaries.slot import Auxiliary, Host, Reads, Shared
from harness.spans import span

LEVELS = 256  # values of a pixel


class Autoencoder(Auxiliary):
    """Reconstructs the RL loss's view from its latent."""

    when = "after_targets"  # as released

    def __init__(self, config: AutoencoderConfig, host: Host):
        self.config, self.host, self.weight = config, host, config.weight
        self.reads = Reads("transitions", 1, ())
        self.generators = host.generators("dequantisation")
        self.owned, self.targets = nn.ModuleDict({"decoder": Decoder(host)}), nn.ModuleDict()
        host.initialise(self.owned)
        self.groups = host.own_groups(list(self.owned.parameters()), weight_decay=config.weight_decay)

    def draw(self, batch: Any, shared: Shared) -> Tensor:
        """Draws noise uint8 [B, C, S, S], in units of a 256th of a bin."""
        size = (len(batch.obs), self.host.view_channels, self.host.view_size, self.host.view_size)
        generator = self.generators["dequantisation"]
        return torch.randint(0, LEVELS, size, dtype=torch.uint8, generator=generator, device=batch.obs.device)

    def loss(self, batch: Any, shared: Shared, drawn: Tensor, samples: slice) -> dict[str, Tensor]:
        """Mean squared error and the latent's penalty, [1, b]."""
        with span("augment"):
            pixels = shared.view[samples]
            target = dequantised(pixels[:, : self.host.view_channels].float(), drawn[samples], self.config.bits)
        with span("reconstruct"), self.host.autocast():
            latent = self.host.encoder(pixels).float()
            reconstruction = self.owned["decoder"](latent)
        error = (reconstruction.float() - target).square().mean(dim=(1, 2, 3))
        penalty = 0.5 * latent.square().sum(dim=1)
        return {
            "loss": (error + self.config.latent_penalty * penalty)[None],
            "error": error.detach()[None],
            "latent_penalty": penalty.detach()[None],
        }


def dequantised(pixels: Tensor, noise: Tensor, bits: int) -> Tensor:
    """Pixels 0..255 in 2 ** bits bins, shifted by `noise` 0..255 within each: floats within -0.5..0.5."""
    bins = 2**bits
    return ((pixels * bins / LEVELS).floor() + noise / LEVELS) / bins - 0.5


class Decoder(nn.Module):
    """Latents [b, D] to pixels [b, C, S, S]: the encoder's layers mirrored, with ReLU between them."""

    def __init__(self, host: Host):
        super().__init__()
        facts = host.facts
        sides = [host.view_size, *facts.map_sides]
        channels = [host.view_channels, *facts.map_channels]
        self.shape = (channels[-1], sides[-1], sides[-1])
        self.fc = nn.Linear(facts.latent_dim, prod(self.shape))
        self.layers = nn.ModuleList()
        for number in reversed(range(len(host.layers))):
            ((kernel, stride, _),) = host.layers[number]
            # Pixels that the encoder's layer left out.
            cut = sides[number] - (sides[number + 1] - 1) * stride - kernel
            inputs, outputs = channels[number + 1], channels[number]
            self.layers.append(nn.ConvTranspose2d(inputs, outputs, kernel, stride, output_padding=cut))

    def forward(self, latent: Tensor) -> Tensor:
        maps = self.fc(latent).unflatten(1, self.shape)
        for layer in self.layers:
            maps = layer(maps.relu())
        return maps
