"""The auxiliary objective of Mask-based Latent Reconstruction.

T time (= K steps of a clip), B batch, C H W a stacked observation, D latent, P projection.
"""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.pixels import to_unit_range
from harness.precision import Autocast
from harness.spans import span
from mlr.config import MLRConfig
from mlr.decoder import reads_actions
from mlr.fast_decoder import FastDecoder
from mlr.masking import StageMask, enlarge, hide
from mlr.momentum import frozen_copy, momentum_update


class Clips(Protocol):
    """What the objective reads of a batch: `MLR.fields` names the ones it needs."""

    frames: Tensor  # uint8 [T, B, C, H, W], the observations
    actions: Tensor  # [T, B, ...], the action taken at each observation, as the action embedding takes it
    rewards: Tensor  # float32 [T, B], that followed


class Pixels(Protocol):
    """Float pixels in 0..255: a tensor [T, B, C, S, S], or what makes those of the sequences b by `[:, b]`.

    What that gives may be overwritten.
    """

    def __getitem__(self, index: tuple[slice, slice]) -> Tensor: ...


@dataclass(frozen=True)
class Drawn:
    """All that is random about the loss of a batch."""

    mask: Tensor  # bool [1, K, g, g]
    masked: Pixels  # what the online encoder sees
    whole: Pixels | None  # what the momentum encoder sees


class MLR:
    """Predicts the latents of whole observations from masked ones and the actions.

    `encoder` (pixels float [N, C, H, W] in 0..255 -> [N, D]) and `projector` ([..., D] -> [..., P]) stay the agent's:
    they are referred to, and frozen copies of them give the targets. `predictor` ([..., P] -> [..., P]) and
    `action_embedding` (actions [B, T, ...] -> [B, T, D], for few kinds of actions as a `Chosen`; None where
    `reads_actions` is false) become the objective's own, like its decoder. `mask` draws a mask bool [1, K, g, g];
    `augment_masked` and `augment_target` turn frames [T, B, C, H, W] into `Pixels`, each with a generator of its own.
    `autocast` makes the context in which encoders and decoder run; they return float32. An encoder whose features are
    to be hidden takes a `StageMask` behind the pixels. Source: paper, section 3; ablations: docs/ablations.md.
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
        self.encoder = encoder
        self.projector = projector
        self.mask = mask
        self.augment_masked = augment_masked
        self.augment_target = augment_target
        self.autocast = autocast
        self.fields = ("frames",)
        decoder = FastDecoder(latent_dim, config.seq_len, config.decoder)
        self.owned = nn.ModuleDict({"decoder": decoder, "predictor": predictor})
        if reads_actions(config):
            self.fields += ("actions",)
            self.owned["action_embedding"] = action_embedding
        if config.reward_weight > 0:
            self.fields += ("rewards",)
            self.owned["reward_head"] = nn.Linear(latent_dim, 1)
        self.targets = self._make_targets()

    def _make_targets(self) -> nn.ModuleDict:
        return nn.ModuleDict({"encoder": frozen_copy(self.encoder), "projector": frozen_copy(self.projector)})

    def loss(self, batch: Clips) -> tuple[Tensor, dict[str, Tensor]]:
        """Distance between prediction and target, float32 [T, B] without `config.weight`, and metrics (0-d tensors)."""
        drawn = self._draw(batch.frames)
        values = self._compare(batch, drawn, slice(None))
        return values["loss"], self._metrics(values, drawn.mask, batch.frames.shape[-1])

    def loss_in_pieces(
        self, batch: Clips, pieces: Iterable[slice], backward: Callable[[Tensor], None]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The same of the sequences `pieces`, which together are all: each loss [T, b] goes to `backward` at once.

        Sequences are independent of each other, and so what a backward pass needs of one piece can be let go before the
        next. The loss that is returned has no gradient.
        """
        drawn, values = self._draw(batch.frames), []
        for sequences in pieces:
            values.append(self._compare(batch, drawn, sequences))
            backward(values[-1]["loss"])
            values[-1]["loss"] = values[-1]["loss"].detach()
        values = {name: torch.cat([piece[name] for piece in values], dim=1) for name in values[0]}
        return values["loss"], self._metrics(values, drawn.mask, batch.frames.shape[-1])

    def _draw(self, frames: Tensor) -> Drawn:
        with span("augment"):
            return self._views(frames, self.mask())

    def _views(self, frames: Tensor, mask: Tensor) -> Drawn:
        return Drawn(mask, self.augment_masked(self._hide_pixels(frames, mask)), self.augment_target(frames))

    def _compare(self, batch: Clips, drawn: Drawn, sequences: slice) -> dict[str, Tensor]:
        """`loss` [T, b] of these sequences, and what `_metrics` reads, each [T, b, ...] and without a gradient."""
        with span("augment"):
            pixels, whole = self._masked_pixels(drawn, sequences)
        with span("masked_encode"), self.autocast():
            states = self._encode_masked(pixels, drawn.mask)  # [T, b, D]
        with span("decode"):
            with self.autocast():
                decoded = self._decode(states, batch, sequences)
            prediction = self.owned["predictor"](self.projector(decoded))  # [T, b, P]
        with span("targets"):
            target, latent = self._target(whole, sequences)  # [T, b, P]
        loss, name, agreement = self._distance(prediction, target)
        values = {"loss": loss, name: agreement, **latent}
        if "reward_head" in self.owned:
            reward = symlog(batch.rewards[:, sequences])
            reward_loss = (self.owned["reward_head"](decoded).squeeze(-1) - reward).square()  # [T, b]
            values["loss"] = loss + self.config.reward_weight * reward_loss
            values["mlr_reward_loss"] = reward_loss.detach()
        return values

    def _metrics(self, values: dict[str, Tensor], mask: Tensor, image_size: int) -> dict[str, Tensor]:
        """Metrics (0-d tensors) of what `_compare` gave for a whole batch, [T, B, ...]."""
        metrics = {}
        for name, value in values.items():
            if name == "latent":
                metrics |= _latent_metrics(value)
            elif name == "mlr_reward_loss":
                metrics[name] = value.mean()
            elif name != "loss":
                metrics |= self._by_visibility(name, value, enlarge(mask, image_size))
        return metrics

    def _masked_pixels(self, drawn: Drawn, sequences: slice) -> tuple[Tensor, Pixels]:
        """The masked branch's pixels float [T, b, C, S, S], and what `_target` makes the targets of."""
        pixels, scale = drawn.masked[:, sequences], self.config.masked_scale  # F1 in docs/fidelity.md
        return pixels if scale == 1 else pixels.mul_(scale), drawn.whole

    def _hide_pixels(self, frames: Tensor, mask: Tensor) -> Tensor:
        hides = self.config.mask.space == "pixel" and self.config.mask.strategy != "none"
        return hide(frames, mask) if hides else frames

    def _encode_masked(self, pixels: Tensor, mask: Tensor) -> Tensor:
        if self.config.mask.space == "pixel":
            return _encode(self.encoder, pixels)
        return _encode(self.encoder, pixels, StageMask(self.config.mask.stage, mask))

    def _decode(self, states: Tensor, batch: Clips, sequences: slice) -> Tensor:
        """Latents of masked frames [T, b, D] to decoded ones [T, b, D]."""
        actions = None
        if "action_embedding" in self.owned:
            actions = self.owned["action_embedding"](batch.actions[:, sequences].transpose(0, 1))
        return self.owned["decoder"](states.transpose(0, 1), actions).transpose(0, 1)

    @torch.no_grad()
    def _target(self, whole: Pixels, sequences: slice) -> tuple[Tensor, dict[str, Tensor]]:
        """Projected latents [T, b, P] of the whole frames, from the momentum copies, and the latents themselves."""
        with span("augment"):
            pixels = whole[:, sequences]
        with self.autocast():
            latent = _encode(self.targets["encoder"], pixels)  # [T, b, D]
        return self.targets["projector"](latent), {"latent": latent}

    def _distance(self, prediction: Tensor, target: Tensor) -> tuple[Tensor, str, Tensor]:
        """Of vectors [T, B, P]: the distance [T, B], and the metric [T, B] that tells how well they agree."""
        if self.config.distance == "mse":
            return squared_distance(prediction, target)
        return cosine_distance(prediction, target, self.config.distance_scale, self.config.norm_floor)

    def _by_visibility(self, name: str, values: Tensor, hidden: Tensor) -> dict[str, Tensor]:
        """Means of [T, B] over hidden and over visible pixels, hidden bool [1, K, H, W]."""
        values = values.mean(dim=-1)  # [T]
        if self.config.mask.strategy == "none":
            return {f"{name}_visible": values.mean()}
        share = hidden[0].float().mean(dim=(-2, -1))  # [T]
        return {
            f"{name}_hidden": _weighted_mean(values, share),
            f"{name}_visible": _weighted_mean(values, 1 - share),
        }

    def update_targets(self) -> None:
        """Moves the momentum copies towards the online encoder and projector by `config.tau`, in place."""
        for name, target in self.targets.items():
            momentum_update(target, getattr(self, name), self.config.tau)

    def owned_parameters(self) -> list[nn.Parameter]:
        """The parameters that exist only for this objective: decoder, predictor, action embedding, reward head."""
        return list(self.owned.parameters())

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Tensors of the own modules and of the targets, as references; encoder and projector are the agent's."""
        return {"owned": self.owned.state_dict(), "targets": self.targets.state_dict()}

    def load_state(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Copies a `state()` into the tensors that exist; raises RuntimeError for one that does not fit."""
        self.owned.load_state_dict(state["owned"])
        self.targets.load_state_dict(state["targets"])


class PixelMLR(MLR):
    """The ablation that predicts pixels: the masked branch's own view of the newest frame, before it was masked.

    `projector` is the identity and `predictor` a linear head to the `frame_channels` x S x S values of that view, in
    0..1. Of crop and intensity each image has one draw, so that input and target have the same. No momentum copies.
    """

    def __init__(self, config: MLRConfig, *, frame_channels: int, **parts):
        self.frame_channels = frame_channels
        super().__init__(config, **parts)

    def _make_targets(self) -> nn.ModuleDict:
        return nn.ModuleDict()

    def _views(self, frames: Tensor, mask: Tensor) -> Drawn:
        newest = frames[:, :, -self.frame_channels :]
        both = self.augment_masked(torch.cat([self._hide_pixels(frames, mask), newest], dim=2))
        return Drawn(mask, both, whole=None)

    def _masked_pixels(self, drawn: Drawn, sequences: slice) -> tuple[Tensor, Tensor]:
        both = drawn.masked[:, sequences]
        masked, newest = both.tensor_split([both.shape[2] - self.frame_channels], dim=2)
        return masked * self.config.masked_scale, newest

    def _target(self, whole: Tensor, sequences: slice) -> tuple[Tensor, dict[str, Tensor]]:
        return to_unit_range(whole).flatten(2), {}

    def _distance(self, prediction: Tensor, target: Tensor) -> tuple[Tensor, str, Tensor]:
        return squared_distance(prediction, target)


def cosine_distance(prediction: Tensor, target: Tensor, scale: float, floor: float) -> tuple[Tensor, str, Tensor]:
    """Squared distance of unit vectors, 2 - 2 cos times `scale`; a vector shorter than `floor` is divided by that."""
    prediction, target = (F.normalize(vectors, dim=-1, eps=floor) for vectors in (prediction, target))
    distance = scale * (prediction - target).square().sum(dim=-1)
    return distance, "mlr_cosine", (prediction.detach() * target).sum(dim=-1)


def squared_distance(prediction: Tensor, target: Tensor) -> tuple[Tensor, str, Tensor]:
    """Mean squared difference of the vectors as they are."""
    distance = (prediction - target).square().mean(dim=-1)
    return distance, "mlr_error", distance.detach()


def symlog(values: Tensor) -> Tensor:
    """sign(x) log(1 + |x|)."""
    return values.sign() * values.abs().log1p()


def _encode(encoder: nn.Module, pixels: Tensor, *stage_masks: StageMask) -> Tensor:
    """Pixels [T, B, C, H, W] -> latents [T, B, D]."""
    return encoder(pixels.flatten(0, 1), *stage_masks).unflatten(0, pixels.shape[:2])


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
