"""SPR (Schwarzer et al. 2021): the latents of future observations, predicted from one observation and the actions.

K steps ahead, B batch, b a slice of it, N any number of latents, C S S a map, D latent, P projection, A actions.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from auxiliaries.config import SPRConfig
from auxiliaries.slot import Auxiliary, Group, Host, Reads, Shared
from harness.pixels import Pixels
from harness.spans import span
from mlr.momentum import frozen_copy, momentum_update
from mlr.objective import cosine_distance


@dataclass(frozen=True)
class Drawn:
    """All that is random about the prediction's loss."""

    online: Pixels | None  # views of the first observations [1, B, ...]; None where the RL loss lends its latents
    target: Pixels  # views of all observations [K + 1, B, ...]


class SPR(Auxiliary):
    """Predicts K latents in a row with a transition model; a momentum encoder makes the targets."""

    curve = ("cosine", "1 - cosine of\nprediction and target")

    def __init__(self, config: SPRConfig, host: Host):
        self.config, self.host, self.weight = config, host, config.weight
        self.reads = Reads("windows", config.steps + 1, ("frames", "actions", "ended"))
        self.moves_targets = "with_targets" if host.own_step else "before_step"
        self.generators = host.generators("augmentation_spr_online", "augmentation_spr_target")
        self.owned = nn.ModuleDict({"transition": make_transition(config, host)})
        if host.projector is not None:
            self.projector, width = host.projector, host.projected_dim
            self.owned["predictor"] = host.head(width, width)
            target_projector = frozen_copy(self.projector)
        else:
            self.projector = self.owned["projector"] = make_head(host.facts.latent_dim, config.projection)
            self.owned["predictor"] = make_head(host.facts.latent_dim, config.projection)
            # Drawn on its own, not copied, as released on DMControl.
            target_projector = frozen_copy(make_head(host.facts.latent_dim, config.projection))
        self.targets = nn.ModuleDict({"encoder": frozen_copy(host.encoder), "projector": target_projector})
        self.groups = self._groups("transition")

    def _groups(self, *models: str) -> tuple[Group, ...]:
        """One clip for all in a step of their own; otherwise one for each model and none for the predictor (A9)."""
        if self.host.own_step:
            return self.host.own_groups(list(self.owned.parameters()))
        clipped = (Group(name, list(self.owned[name].parameters()), clip=self.host.clip_norm) for name in models)
        return (*clipped, Group("unclipped", list(self.owned["predictor"].parameters())))

    def draw(self, batch: Any, shared: Shared) -> Drawn:
        with span("augment"):
            online = None
            if shared.latent is None:
                online = self.host.augment(batch.frames[:1], self.generators["augmentation_spr_online"])
            return Drawn(online, self.host.augment(batch.frames, self.generators["augmentation_spr_target"]))

    def loss(self, batch: Any, shared: Shared, drawn: Drawn, samples: slice) -> dict[str, Tensor]:
        """Mean distance [1, b] over the K steps; those from an episode's end on count as 0 (A4)."""
        return self._prediction(self._start(shared, drawn, samples), batch, drawn, samples)

    def update_targets(self) -> None:
        for name, online in (("encoder", self.host.encoder), ("projector", self.projector)):
            momentum_update(self.targets[name], online, self.config.tau)

    def _start(self, shared: Shared, drawn: Drawn, samples: slice) -> Tensor:
        """Latents [b, D] of the first observations: on Atari the RL loss's own, with their graph."""
        if shared.latent is not None:
            return shared.latent[samples]
        with span("augment"):
            pixels = drawn.online[:, samples].flatten(0, 1)
        with span("encode"), self.host.autocast():
            return self.host.encoder(pixels).float()

    def _prediction(self, latent: Tensor, batch: Any, drawn: Drawn, samples: slice) -> dict[str, Tensor]:
        predicted = []
        with span("predict"):
            for actions in encode_actions(batch.actions[: self.config.steps, samples], self.host):
                latent = self.owned["transition"](latent, actions)
                predicted.append(latent)
            predictions = self._project(torch.stack(predicted))  # [K, b, P]
        targets = self._target(drawn.target, samples, first=1)
        going_on = ~batch.ended[1:, samples]
        distance, values = self._distance(predictions, targets)
        vectors = {"prediction": predictions.detach(), "target": targets}
        return {"loss": (distance * going_on).mean(0, keepdim=True), "cosine": values["cosine"]} | vectors

    def _project(self, latents: Tensor) -> Tensor:
        return self.owned["predictor"](self.projector(latents))

    @torch.no_grad()
    def _target(self, view: Pixels, samples: slice, first: int = 0) -> Tensor:
        """Projected latents [T - first, b, P] of a view [T, B, ...] by the momentum copies, from step `first` on."""
        with span("augment"):
            pixels = view[first:, samples]
        with span("targets"), self.host.autocast():
            latents = self.targets["encoder"](pixels.flatten(0, 1)).float()
        return self.targets["projector"](latents).unflatten(0, pixels.shape[:2])

    def _distance(self, predictions: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """2 - 2 cos of vectors [..., P], and their cosine."""
        return cosine_distance(predictions, targets, 1.0, self.config.norm_floor)


def make_transition(config: SPRConfig, host: Host) -> nn.Module:
    """A model of latents [N, D] and actions [N, A] to the next latents [N, D]."""
    shape = host.facts.latent_shape
    if len(shape) == 1:
        return VectorTransition(shape[0], host.actions, config.width)
    return MapTransition(shape, host)


class MapTransition(nn.Module):
    """Convolutions on maps, renormalised at the end. Source: released code of SPR."""

    def __init__(self, shape: tuple[int, ...], host: Host):
        super().__init__()
        self.shape, self.autocast, self.renormalize = shape, host.autocast, host.renormalize
        self.conv_in = nn.Conv2d(shape[0] + host.actions, shape[0], 3, padding=1)
        # Without running statistics: nothing ever reads them.
        self.norm = nn.BatchNorm2d(shape[0], track_running_stats=False)
        self.conv_out = nn.Conv2d(shape[0], shape[0], 3, padding=1)

    def forward(self, latents: Tensor, actions: Tensor) -> Tensor:
        planes = actions[:, :, None, None].expand(-1, -1, *self.shape[1:])
        with self.autocast():
            maps = self.conv_in(torch.cat((latents.unflatten(1, self.shape), planes), dim=1))
        maps = self.norm(maps.float().relu())
        with self.autocast():
            maps = self.conv_out(maps)
        return self.renormalize(maps.float().relu().flatten(1))


class VectorTransition(nn.Module):
    """Two linear layers on vectors. Source: released code of PlayVirtual."""

    def __init__(self, latent: int, actions: int, width: int):
        super().__init__()
        self.fc, self.ln, self.out = nn.Linear(latent + actions, width), nn.LayerNorm(width), nn.Linear(width, latent)

    def forward(self, latents: Tensor, actions: Tensor) -> Tensor:
        return self.out(self.ln(self.fc(torch.cat((latents, actions), dim=-1))).relu())


def make_head(width: int, hidden: int) -> nn.Sequential:
    """Projector or predictor of vectors, with the library's initial weights, as released."""
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))


def encode_actions(actions: Tensor, host: Host) -> Tensor:
    """Actions as floats [..., A]: the one-hot of a number, the values of a vector."""
    if not host.facts.discrete:
        return actions
    every = torch.arange(host.actions, device=actions.device)
    return (actions.unsqueeze(-1) == every).float()  # F.one_hot checks its input on the host
