"""CURL (Srinivas et al. 2020): two views of an observation recognise each other among those of the batch.

B batch, b a slice of it, D latent, P width of the vectors that are compared.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from auxiliaries.config import CURLConfig
from auxiliaries.slot import Auxiliary, Group, Host, Reads, Shared
from harness.pixels import Pixels
from harness.spans import span
from mlr.momentum import frozen_copy, momentum_update


class CURL(Auxiliary):
    """Contrasts the RL loss's view, the anchor, with a further view of the same observations, the keys."""

    when = "after_targets"  # as released (U3)
    moves_targets = "after_step"
    heads = ("similarity", "head")
    independent = False  # the other samples of the batch are the negatives
    curve = ("accuracy", "1 - accuracy of\nthe contrast")

    def __init__(self, config: CURLConfig, host: Host):
        self.config, self.host, self.weight = config, host, config.weight
        self.reads = Reads("transitions", 1, ())
        self.generators = host.generators("augmentation_curl_key")
        latent, self.targets = host.facts.latent_dim, nn.ModuleDict()
        self.owned = nn.ModuleDict({"similarity": Similarity(config.width if config.hidden else latent)})
        self.head = nn.Identity()
        if config.hidden:
            self.head = self.owned["head"] = ContrastHead(latent, config)
            self.targets["encoder"], self.targets["head"] = frozen_copy(host.encoder), frozen_copy(self.head)
        owned = list(self.owned.parameters())
        joined = (Group("contrast", owned, joins="encoder_head"),)  # one clip over everything, as released
        self.groups = host.own_groups(owned) if host.own_step else joined

    def draw(self, batch: Any, shared: Shared) -> Pixels:
        """Draws the view that the keys show."""
        return self.host.augment_rl(batch.obs, self.generators["augmentation_curl_key"])

    def embed(self, batch: Any, shared: Shared, drawn: Pixels, samples: slice) -> Tensor:
        """Anchors [b, P], from the RL loss's own latents where it lends them."""
        if shared.latent is not None:
            return self.head(shared.latent[samples])
        return self.head(self._encode(self.host.encoder, shared.view, samples))

    @torch.no_grad()
    def embed_targets(self, batch: Any, shared: Shared, drawn: Pixels, samples: slice) -> Tensor:
        """Keys [b, P]."""
        if self.config.hidden:
            return self.targets["head"](self._encode(self.targets["encoder"], drawn, samples))
        return self._encode(shared.target_encoder, drawn, samples)

    def compare(self, embedded: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Cross entropy [1, B] of each anchor with its own key among all."""
        logits = self.config.temperature * self.owned["similarity"](embedded, targets)  # [B, B]
        own = torch.arange(len(logits), device=logits.device)
        return {
            "loss": -logits.log_softmax(dim=1).diagonal()[None],
            "accuracy": (logits.detach().argmax(dim=1) == own).float()[None],
        }

    def update_targets(self) -> None:
        if self.config.hidden:
            for name, online in (("encoder", self.host.encoder), ("head", self.head)):
                momentum_update(self.targets[name], online, self.config.tau)

    def _encode(self, encoder: nn.Module, view: Pixels, samples: slice) -> Tensor:
        with span("augment"):
            pixels = view[samples]
        with span("contrast"), self.host.autocast():
            return encoder(pixels).float()


class Similarity(nn.Module):
    """Bilinear products of anchors [B, P] with keys [B, P]: [B, B]. Weights start uniform on [0, 1), as released."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width, width))

    def forward(self, anchors: Tensor, keys: Tensor) -> Tensor:
        return anchors @ (self.weight @ keys.T)


class ContrastHead(nn.Module):
    """Latents [b, D] to vectors [b, P]: two linear layers, each with a LayerNorm that has no parameters.

    Weights start uniform on [0, 1), as released (C4).
    """

    def __init__(self, latent: int, config: CURLConfig):
        super().__init__()
        self.hidden, self.out = nn.Linear(latent, config.hidden), nn.Linear(config.hidden, config.width)
        for layer in (self.hidden, self.out):
            nn.init.uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, latent: Tensor) -> Tensor:
        hidden = self.hidden(latent)
        vectors = self.out(F.layer_norm(hidden, hidden.shape[-1:]).relu())
        return F.layer_norm(vectors, vectors.shape[-1:])
