"""The auxiliary objective of Mask-based Latent Reconstruction (paper, section 3).

T time (K steps of a clip), B batch, b a slice of it, C H W a stacked observation, S side of a view, D latent,
P projection, g cells a side of the mask.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.pixels import Pixels
from harness.precision import Autocast
from harness.spans import span
from mlr.config import MLRConfig
from mlr.decoder import Bottleneck, reads_actions
from mlr.fast_decoder import FastDecoder
from mlr.masking import StageMask, enlarge, hide
from mlr.momentum import frozen_copy, momentum_update
from mlr.reward_head import RewardHead

Values = dict[str, Tensor]  # name -> values of a batch slice [T, b, ...]


class Clips(Protocol):
    """Fields of a batch that the objective reads; `MLR.fields` names those it needs."""

    frames: Tensor  # uint8 [T, B, C, H, W], the observations
    actions: Tensor  # [T, B, ...], the action taken at each observation, as the action embedding takes it
    rewards: Tensor  # float32 [T, B], that followed


@dataclass(frozen=True)
class Drawn:
    """All that is random about the loss of a batch."""

    mask: Tensor  # bool [1, K, g, g], True where hidden
    masked: Pixels  # masked view for the online encoder
    whole: Pixels | None  # whole view for the momentum encoder


class MLR:
    """Predicts the latents of whole observations from masked ones and the actions.

    `encoder` (pixels float [N, C, S, S] in 0..255 -> [N, D]) and `projector` ([..., D] -> [..., P]) are borrowed:
    frozen copies of them give the targets. `predictor` ([..., P] -> [..., P]) and `action_embedding` (actions
    [B, T, ...] -> the decoder's width; None where `reads_actions` is false) become the objective's own, like its
    decoder. `mask` draws a mask bool [1, K, g, g]. `augment_masked` and `augment_target` turn frames
    [T, B, C, H, W] into `Pixels`, each with a generator of its own. `autocast` makes the context of
    encoders and decoder, which return float32. An encoder whose features are to be hidden takes a `StageMask`
    behind the pixels.
    Source: paper, section 3; ablations: docs/ablations.md.
    """

    def __init__(
        self,
        config: MLRConfig,
        *,
        encoder: nn.Module,
        projector: nn.Module,
        action_embedding: nn.Module | None,
        predictor: nn.Module,
        latent_dim: int,
        mask: Callable[[], Tensor],
        augment_masked: Callable[[Tensor], Pixels],
        augment_target: Callable[[Tensor], Pixels],
        autocast: Autocast = nullcontext,
    ):
        self.config = config
        self.encoder, self.projector = encoder, projector
        self.mask, self.augment_masked, self.augment_target = mask, augment_masked, augment_target
        self.autocast = autocast
        self.fields: tuple[str, ...] = ("frames",)
        width = config.decoder.width
        decoder = FastDecoder(width or latent_dim, config.seq_len, config.decoder)
        self.owned = nn.ModuleDict({"decoder": Bottleneck(decoder, latent_dim, width) if width else decoder})
        self.owned["predictor"] = predictor
        if reads_actions(config):
            self.fields += ("actions",)
            self.owned["action_embedding"] = action_embedding
        if config.reward_weight > 0:
            self.fields += ("rewards",)
            self.owned["reward_head"] = RewardHead(latent_dim)
        self.targets = self._make_targets()

    def draw(self, frames: Tensor) -> Drawn:
        """Draws the mask and both views of frames uint8 [T, B, C, H, W]."""
        with span("augment"):
            return self._views(frames, self.mask())

    def loss(self, batch: Clips, drawn: Drawn, samples: slice) -> Values:
        """Computes the distance `loss` [T, b] between prediction and target of some sequences.

        The further values, for `metrics`, have no gradient.
        """
        with span("augment"):
            pixels, whole = self._masked_pixels(drawn, samples)
        with span("masked_encode"), self.autocast():
            states = self._encode_masked(pixels, drawn.mask)  # [T, b, D]
        with span("decode"):
            with self.autocast():
                decoded = self._decode(states, batch, samples)  # [T, b, D]
            prediction = self.owned["predictor"](self.projector(decoded))  # [T, b, P]
        with span("targets"):
            target, latent = self._target(whole, samples)  # [T, b, P]
        distance, agreement = self._distance(prediction, target)
        values = {"loss": distance} | agreement | latent
        if "reward_head" in self.owned:
            reward_loss = self.owned["reward_head"](decoded, batch.rewards[:, samples])
            values["loss"] = distance + self.config.reward_weight * reward_loss
            values["reward_loss"] = reward_loss.detach()
        return values

    def update_targets(self) -> None:
        """Moves the momentum copies towards the online encoder and projector by `config.tau`, in place."""
        for name, target in self.targets.items():
            momentum_update(target, getattr(self, name), self.config.tau)

    def metrics(self, values: Values, drawn: Drawn, image_size: int) -> dict[str, Tensor]:
        """Summarises the values [T, B, ...] of a whole batch as 0-d tensors."""
        found = {}
        for name, value in values.items():
            if name == "latent":
                found |= _collapse(value)
            elif name == "reward_loss":
                found[name] = value.mean()
            elif name == "target":
                found |= cosine_margin(values)
            elif name not in ("loss", "prediction"):
                found |= self._by_visibility(name, value, enlarge(drawn.mask, image_size))
        return found

    def _make_targets(self) -> nn.ModuleDict:
        return nn.ModuleDict({"encoder": frozen_copy(self.encoder), "projector": frozen_copy(self.projector)})

    def _views(self, frames: Tensor, mask: Tensor) -> Drawn:
        return Drawn(mask, self.augment_masked(self._hide_pixels(frames, mask)), self.augment_target(frames))

    def _hide_pixels(self, frames: Tensor, mask: Tensor) -> Tensor:
        hides = self.config.mask.space == "pixel" and self.config.mask.strategy != "none"
        return hide(frames, mask) if hides else frames

    def _masked_pixels(self, drawn: Drawn, samples: slice) -> tuple[Tensor, Pixels | None]:
        """The masked branch's pixels float [T, b, C, S, S], and those that `_target` reads."""
        pixels, scale = drawn.masked[:, samples], self.config.masked_scale  # F1 in docs/fidelity.md
        return pixels if scale == 1 else pixels.mul_(scale), drawn.whole

    def _encode_masked(self, pixels: Tensor, mask: Tensor) -> Tensor:
        if self.config.mask.space == "pixel":
            return _encode(self.encoder, pixels)
        return _encode(self.encoder, pixels, StageMask(self.config.mask.stage, mask))

    def _decode(self, states: Tensor, batch: Clips, samples: slice) -> Tensor:
        """Latents of masked frames [T, b, D] to decoded ones [T, b, D]."""
        actions = None
        if "action_embedding" in self.owned:
            actions = self.owned["action_embedding"](batch.actions[:, samples].transpose(0, 1))
        return self.owned["decoder"](states.transpose(0, 1), actions).transpose(0, 1)

    @torch.no_grad()
    def _target(self, whole: Pixels, samples: slice) -> tuple[Tensor, Values]:
        """Projected latents [T, b, P] of whole frames by the momentum copies, and the latents themselves."""
        with span("augment"):
            pixels = whole[:, samples]
        with self.autocast():
            latent = _encode(self.targets["encoder"], pixels)  # [T, b, D]
        return self.targets["projector"](latent), {"latent": latent}

    def _distance(self, prediction: Tensor, target: Tensor) -> tuple[Tensor, Values]:
        """Distance [T, b] of vectors [T, b, P], how well they agree, and the vectors themselves."""
        if self.config.distance == "mse":
            distance, agreement = squared_distance(prediction, target)
        else:
            distance, agreement = cosine_distance(
                prediction, target, self.config.distance_scale, self.config.norm_floor
            )
        return distance, agreement | {"prediction": prediction.detach(), "target": target}

    def _by_visibility(self, name: str, values: Tensor, hidden: Tensor) -> dict[str, Tensor]:
        """Means of [T, B] over hidden and over visible pixels, hidden bool [1, K, H, W]."""
        values = values.mean(dim=-1)  # [T]
        if self.config.mask.strategy == "none":
            return {f"{name}_visible": values.mean()}
        share = hidden[0].float().mean(dim=(-2, -1))  # [T]
        return {f"{name}_hidden": _weighted_mean(values, share), f"{name}_visible": _weighted_mean(values, 1 - share)}


def cosine_distance(prediction: Tensor, target: Tensor, scale: float, floor: float) -> tuple[Tensor, Values]:
    """Squared distance of unit vectors, 2 - 2 cos times `scale`; a vector shorter than `floor` is divided by that."""
    prediction, target = (F.normalize(vectors, dim=-1, eps=floor) for vectors in (prediction, target))
    distance = scale * (prediction - target).square().sum(dim=-1)
    return distance, {"cosine": (prediction.detach() * target).sum(dim=-1)}


def cosine_margin(values: Values) -> dict[str, Tensor]:
    """Mean cosine of `prediction` [T, B, P] with its `target`, less that with the target of another clip.

    Near 0 a prediction fits any clip, however close it is to its own. The other clip is the batch's previous one.
    Values of one clip alone, or without these vectors, give nothing.
    """
    if "target" not in values or values["target"].shape[1] < 2:
        return {}
    prediction, target = (F.normalize(values[name], dim=-1) for name in ("prediction", "target"))
    return {"cosine_margin": (prediction * (target - target.roll(1, dims=1))).sum(dim=-1).mean()}


def squared_distance(prediction: Tensor, target: Tensor) -> tuple[Tensor, Values]:
    """Mean squared difference of the vectors as they are."""
    distance = (prediction - target).square().mean(dim=-1)
    return distance, {"error": distance.detach()}


def _encode(encoder: nn.Module, pixels: Tensor, *stage_masks: StageMask) -> Tensor:
    """Pixels [T, B, C, H, W] -> latents [T, B, D]."""
    return encoder(pixels.flatten(0, 1), *stage_masks).unflatten(0, pixels.shape[:2])


def _collapse(latent: Tensor) -> dict[str, Tensor]:
    """Signs of collapse in latents [T, B, D]: their spread over batch and time, and the share that is always 0."""
    latent = latent.flatten(0, 1)
    return {
        "latent_spread": latent.std(dim=0, correction=0).mean(),
        "dead_units": (latent == 0).all(dim=0).float().mean(),
    }


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """0 where all weights are 0: nothing is hidden, or nothing visible."""
    return (values * weights).sum() / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)
