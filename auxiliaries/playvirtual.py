"""PlayVirtual (Yu et al. 2021): SPR, and a cycle along virtual actions that leads back to its first latent.

K steps ahead, M virtual trajectories, B batch, b a slice of it, D latent, P projection, A actions.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from auxiliaries.config import PlayVirtualConfig
from auxiliaries.slot import Host, Shared
from auxiliaries.spr import SPR, Drawn, encode_actions, make_transition
from harness.pixels import Pixels
from harness.spans import span


@dataclass(frozen=True)
class VirtualDrawn(Drawn):
    """All that is random about both losses."""

    cycle: Pixels  # views of the first observations [M, B, ...], each copy augmented on its own
    actions: Tensor  # int64 [K, M, B] or float32 [K, M, B, A]


class PlayVirtual(SPR):
    """Goes K steps ahead with random actions, and back with a backward model."""

    config: PlayVirtualConfig

    def __init__(self, config: PlayVirtualConfig, host: Host):
        super().__init__(config, host)
        self.weight = 1.0  # both losses have their own
        self.copies = config.copies * (host.actions if config.copies_per_action else 1)
        purposes = ("augmentation_spr_online", "augmentation_spr_target", "augmentation_pv_cycle", "virtual_actions")
        self.generators = host.generators(*purposes)
        self.owned["backward"] = make_transition(config, host)
        self.groups = self._groups("transition", "backward")
        self.ramp = torch.zeros((), device=host.device)

    def begin_update(self, step: int) -> None:
        count = step * self.host.facts.action_repeat if self.config.ramp_unit == "env_steps" else step
        self.ramp.fill_(ramp(count, self.config.ramp_steps, self.config.ramp_exponent))

    def draw(self, batch: Any, shared: Shared) -> VirtualDrawn:
        drawn = super().draw(batch, shared)
        with span("augment"):
            copies = batch.frames[:1].expand(self.copies, *batch.frames.shape[1:])
            cycle = self.host.augment(copies, self.generators["augmentation_pv_cycle"])
        return VirtualDrawn(drawn.online, drawn.target, cycle, self.draw_actions(batch.frames.shape[1]))

    def draw_actions(self, count: int) -> Tensor:
        """Uniform actions [K, M, B], or their values within -1..1 [K, M, B, A]."""
        host, generator = self.host, self.generators["virtual_actions"]
        size, device = (self.config.steps, self.copies, count), host.device
        if host.facts.discrete:
            return torch.randint(host.actions, size, generator=generator, device=device)
        return 2 * torch.rand(*size, host.actions, generator=generator, device=device) - 1

    def loss(self, batch: Any, shared: Shared, drawn: VirtualDrawn, samples: slice) -> dict[str, Tensor]:
        """Weighted sum [1, b] of prediction and cycle."""
        start = self._start(shared, drawn, samples)  # [b, D]
        prediction = self._prediction(start, batch, drawn, samples)
        cycle = self._cycle(start, batch, drawn, samples)
        loss = self.config.weight * prediction["loss"] + self.config.cycle_weight * self.ramp * cycle["loss"]
        return prediction | {
            "loss": loss,
            "prediction_loss": prediction["loss"].detach(),
            "cycle_loss": cycle["loss"].detach(),
            "cycle_cosine": cycle["cosine"],
        }

    def _cycle(self, start: Tensor, batch: Any, drawn: VirtualDrawn, samples: slice) -> dict[str, Tensor]:
        """Distance [1, b] of the latent that comes back to the first observation's, as a mean over the copies."""
        with span("predict"):
            actions = encode_actions(drawn.actions[:, :, samples], self.host).flatten(1, 2)  # [K, M * b, A]
            latent = start.repeat(self.copies, 1)  # [M * b, D]
            for action in actions:
                latent = self.owned["transition"](latent, action)
            for action in actions.flip(0):
                latent = self.owned["backward"](latent, action)
            returned = self._project(latent).unflatten(0, (self.copies, -1))  # [M, b, P]
        distance, values = self._distance(returned, self._target(drawn.cycle, samples))
        going_on = ~batch.ended[:1, samples]
        return {"loss": distance.mean(0, keepdim=True) * going_on, "cosine": values["cosine"]}

    def metrics(self, values: dict[str, Tensor], drawn: VirtualDrawn) -> dict[str, Tensor]:
        return super().metrics(values, drawn) | {"cycle_ramp": self.ramp.clone()}


def ramp(count: int, length: int, exponent: float) -> float:
    """Weight of the cycle after `count` steps: exp(-exponent (1 - (count + 1) / length)^2), and 1 from `length` on."""
    return math.exp(-exponent * (1 - (count + 1) / length) ** 2) if count < length else 1.0
