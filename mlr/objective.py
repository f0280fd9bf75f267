"""The auxiliary objective of Mask-based Latent Reconstruction.

T time (= K steps of a clip), B batch, C H W a stacked observation, D latent, P projection.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlr.config import MLRConfig
from mlr.decoder import Decoder
from mlr.masking import enlarge, hide
from mlr.momentum import frozen_copy, momentum_update


class Clips(Protocol):
    """What the objective reads of a batch."""

    frames: Tensor  # uint8 [T, B, C, H, W], the observations
    actions: Tensor  # [T, B, ...], the action taken at each observation, as the action embedding takes it


class MLR:
    """Predicts the latents of whole observations from masked ones and the actions.

    `encoder` (pixels float [N, C, H, W] in 0..255 -> [N, D]) and `projector` ([..., D] -> [..., P]) stay the agent's:
    they are referred to, and frozen copies of them give the targets. `predictor` ([..., P] -> [..., P]) and
    `action_embedding` (actions -> [..., D]) become the objective's own, like its decoder. `mask` draws a mask
    bool [1, K, g, g]; `augment_masked` and `augment_target` turn frames [T, B, C, H, W] into float pixels in 0..255,
    each with a generator of its own. Source: paper, section 3.
    """

    fields = ("frames", "actions")

    def __init__(
        self,
        config: MLRConfig,
        *,
        encoder: nn.Module,
        projector: nn.Module,
        action_embedding: nn.Module,
        predictor: nn.Module,
        latent_dim: int,
        mask: Callable[[], Tensor],
        augment_masked: Callable[[Tensor], Tensor],
        augment_target: Callable[[Tensor], Tensor],
    ):
        self.config = config
        self.encoder = encoder
        self.projector = projector
        self.mask = mask
        self.augment_masked = augment_masked
        self.augment_target = augment_target
        decoder = Decoder(latent_dim, config.seq_len, config.decoder)
        self.owned = nn.ModuleDict({"decoder": decoder, "predictor": predictor, "action_embedding": action_embedding})
        self.targets = nn.ModuleDict({"encoder": frozen_copy(encoder), "projector": frozen_copy(projector)})

    def loss(self, batch: Clips) -> tuple[Tensor, dict[str, Tensor]]:
        """Distance between prediction and target, float32 [T, B] without `config.weight`, and metrics (0-d tensors)."""
        mask = self.mask()
        prediction = self._predict(hide(batch.frames, mask), batch.actions)
        target_latent, target = self._target(batch.frames)
        prediction, target = self._normalize(prediction), self._normalize(target)
        loss = self.config.distance_scale * (prediction - target).square().sum(dim=-1)
        metrics = {
            **_cosine_metrics(prediction.detach(), target, enlarge(mask, batch.frames.shape[-1])),
            **_latent_metrics(target_latent),
        }
        return loss, metrics

    def _predict(self, masked_frames: Tensor, actions: Tensor) -> Tensor:
        """Predictions from masked frames [T, B, C, H, W] and actions [T, B, ...]: [T, B, P]."""
        pixels = self.augment_masked(masked_frames).mul_(self.config.masked_scale)  # F1 in docs/fidelity.md
        states = _encode(self.encoder, pixels)
        actions = self.owned["action_embedding"](actions)  # [T, B, D]
        decoded = self.owned["decoder"](states.transpose(0, 1), actions.transpose(0, 1)).transpose(0, 1)
        return self.owned["predictor"](self.projector(decoded))

    @torch.no_grad()
    def _target(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Latents [T, B, D] of the whole frames and their projections [T, B, P], from the momentum copies."""
        latent = _encode(self.targets["encoder"], self.augment_target(frames))
        return latent, self.targets["projector"](latent)

    def _normalize(self, vectors: Tensor) -> Tensor:
        """Unit vectors; one shorter than the floor is divided by the floor instead."""
        return F.normalize(vectors, dim=-1, eps=self.config.norm_floor)

    def update_targets(self) -> None:
        """Moves the momentum copies towards the online encoder and projector by `config.tau`, in place."""
        momentum_update(self.targets["encoder"], self.encoder, self.config.tau)
        momentum_update(self.targets["projector"], self.projector, self.config.tau)

    def owned_parameters(self) -> list[nn.Parameter]:
        """The parameters that exist only for this objective: decoder, predictor, action embedding."""
        return list(self.owned.parameters())

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Tensors of the own modules and of the targets, as references; encoder and projector are the agent's."""
        return {"owned": self.owned.state_dict(), "targets": self.targets.state_dict()}

    def load_state(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Copies a `state()` into the tensors that exist; raises RuntimeError for one that does not fit."""
        self.owned.load_state_dict(state["owned"])
        self.targets.load_state_dict(state["targets"])


def _encode(encoder: nn.Module, pixels: Tensor) -> Tensor:
    """Pixels [T, B, C, H, W] -> latents [T, B, D]."""
    return encoder(pixels.flatten(0, 1)).unflatten(0, pixels.shape[:2])


def _cosine_metrics(prediction: Tensor, target: Tensor, hidden: Tensor) -> dict[str, Tensor]:
    """Mean cosine of normalised [T, B, P] over hidden and over visible pixels, hidden bool [1, K, H, W]."""
    cosine = (prediction * target).sum(dim=-1).mean(dim=-1)  # [T]
    share = hidden[0].float().mean(dim=(-2, -1))  # [T]
    return {
        "mlr_cosine_hidden": _weighted_mean(cosine, share),
        "mlr_cosine_visible": _weighted_mean(cosine, 1 - share),
    }


def _latent_metrics(latent: Tensor) -> dict[str, Tensor]:
    """Signs of collapse in latents [T, B, D]: their spread over batch and time, and the share that is always 0."""
    latent = latent.flatten(0, 1)
    return {
        "latent_spread": latent.std(dim=0, correction=0).mean(),
        "dead_units": (latent == 0).all(dim=0).float().mean(),
    }


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """0 where all weights are 0: nothing is hidden, or nothing visible."""
    return (values * weights).sum() / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)
