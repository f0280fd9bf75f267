"""The slot of an auxiliary loss: what an agent lends to one and may ask of it. No agent knows which one it holds.

B batch, b a slice of it, T time, C H W a stacked observation, S side of a view, D latent.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from harness.config import HostFacts, require
from harness.pixels import Pixels
from harness.precision import Autocast
from harness.seeding import Generators
from harness.spans import span
from mlr.cells import Layer
from mlr.objective import cosine_margin

Metrics = dict[str, Tensor]
PLACES = ("after_critic", "after_targets")  # of a step of its own
MOVES = ("before_step", "after_step")  # of momentum copies, in any agent


@dataclass(frozen=True)
class Reads:
    """Stored data that a loss reads."""

    source: str  # windows: sequences of `steps`; transitions: the batch of the RL loss
    steps: int
    fields: tuple[str, ...]  # names out of frames, actions, rewards, first, ended; each field is [T, B, ...]
    sequences: int | None = None  # the first of a joint batch that are read; None: all


@dataclass(frozen=True)
class Group:
    """Parameters that an optimiser steps for the auxiliary."""

    name: str
    parameters: list[nn.Parameter]
    # Largest norm of its gradient; None: any. In a step of its own the first group's is that of all groups together.
    clip: float | None = None
    joins: str | None = (
        None  # the agent's group whose clip and optimiser these parameters share: encoder_head of Rainbow
    )
    rate_factor: float = 1.0  # factor of the learning rate
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Shared:
    """Intermediate results of the RL loss that an auxiliary may use."""

    view: Pixels | None = None  # [B, ...], the RL loss's augmented observations
    latent: Tensor | None = None  # [B, D] of `view`, with its graph
    weights: Tensor | None = None  # [B], importance weights, which the agent itself applies to the loss
    target_encoder: nn.Module | None = None  # the critic's


@dataclass(frozen=True)
class Host:
    """The agent's loans to its auxiliary, and its way to train one."""

    facts: HostFacts
    encoder: nn.Module  # pixels [N, C, S, S] in 0..255 -> latents [N, D]
    renormalize: Callable[[Tensor], Tensor]  # latents [N, D], as the encoder scales its own
    layers: Sequence[Sequence[Layer]]  # encoder's layers, stage by stage
    projector: nn.Module | None  # layers of the agent's that project latents [.., D] -> [.., P], if it has some
    projected_dim: int  # P; without a projector of the agent's, that of one which the auxiliary makes
    head: Callable[[int, int], nn.Module]  # makes a projector or predictor of these widths, of the agent's kind
    actions: int  # number of discrete actions, or values of a continuous one
    embed_actions: Callable[[int], nn.Module]  # makes an embedding of actions [B, T, ...] -> [B, T, width]
    frame_channels: int  # channels of a single frame
    view_channels: int  # channels of a stacked observation
    view_size: int  # pixels a side that the encoder sees
    augment: Callable[[Tensor, torch.Generator], Pixels] | None  # None: the auxiliary does not read the section
    augment_rl: Callable[[Tensor, torch.Generator], Pixels]  # as the RL loss's observations are
    autocast: Autocast
    device: torch.device
    seed: int
    own_step: bool  # a step of its own that also trains the encoder; otherwise it joins the RL loss's backward pass
    clip_norm: float | None  # None: any
    encoder_rate_factor: float = 1.0  # factor of the encoder's learning rate in an own step
    initialise: Callable[[nn.Module], None] = field(default=lambda module: None)  # draws an added module's weights

    def generators(self, *names: str) -> Generators:
        """Random generators of the auxiliary's own, a stream for each name."""
        return Generators(self.seed, self.device, names)

    def own_groups(self, owned: list[nn.Parameter], weight_decay: float = 0.0) -> tuple[Group, ...]:
        """Groups of an own step: the encoder, and `owned` with its weight decay, under one clip."""
        encoder = list(self.encoder.parameters())
        if self.encoder_rate_factor == 1 and weight_decay == 0:
            return (Group("auxiliary", [*encoder, *owned], clip=self.clip_norm),)
        return (
            Group("encoder", encoder, clip=self.clip_norm, rate_factor=self.encoder_rate_factor),
            Group("auxiliary", owned, clip=self.clip_norm, weight_decay=weight_decay),
        )


class Auxiliary(Protocol):
    """An auxiliary loss. A class may inherit from it for the defaults.

    It then sets what has none: `reads`, `groups`, `owned`, `targets` and `generators`, and defines `loss`.
    One whose samples depend on each other has `independent = False`, and `embed`, `embed_targets` and `compare` in the
    place of `loss`.
    """

    reads: Reads
    groups: Sequence[Group]
    weight: float = 1.0  # factor of the loss beside the RL loss
    when: str = "after_critic"  # or after_targets: place of a step of its own; in a joint step it has none
    moves_targets: str = "before_step"  # or after_step, or with_targets where the agent's own targets move
    independent: bool = True  # samples are independent, so that a batch may pass in slices
    curve: tuple[str, str] | None = None  # a metric for the learning curve, and the label of its axis
    heads: Sequence[str] = ("projector", "predictor")  # owned modules that a reset draws anew with the agent's head
    owned: nn.ModuleDict  # modules that exist for this loss alone
    targets: nn.ModuleDict  # momentum copies, each of the owned or lent module of its name
    generators: Generators

    def begin_update(self, step: int) -> None:
        """Fills 0-d tensors that depend on the agent step, on the host. Nothing else may depend on the step."""

    def draw(self, batch: Any, shared: Shared) -> Any:
        """Draws all that is random about the loss of a batch."""

    def loss(self, batch: Any, shared: Shared, drawn: Any, samples: slice) -> dict[str, Tensor]:
        """Computes `loss` [.., b] of some samples, and further values [.., b, ...] without gradient for the metrics."""
        embedded = self.embed(batch, shared, drawn, samples)
        return self.compare(embedded, self.embed_targets(batch, shared, drawn, samples))

    def embed(self, batch: Any, shared: Shared, drawn: Any, samples: slice) -> Tensor:
        """Embeds some samples [b, ...], each on its own, with gradient. Called twice, it gives the same."""

    def embed_targets(self, batch: Any, shared: Shared, drawn: Any, samples: slice) -> Tensor:
        """Embeds the targets of some samples [b, ...], each on its own, without gradient."""

    def compare(self, embedded: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Computes the values of `loss` for a whole batch from its embeddings [B, ...]."""

    def metrics(self, values: dict[str, Tensor], drawn: Any) -> Metrics:
        """Summarises the values of a whole batch as 0-d tensors; vectors `prediction` and `target` have a margin."""
        plain = {name: value.mean() for name, value in values.items() if name not in ("loss", "prediction", "target")}
        return plain | cosine_margin(values)

    def update_targets(self) -> None:
        """Moves the momentum copies towards their modules, in place."""

    def notes(self) -> dict[str, str]:
        """Facts for the run's header and manifest, by name."""
        return {}

    def state(self) -> dict:
        """Tensors and counters, as references."""
        return {
            "owned": self.owned.state_dict(),
            "targets": self.targets.state_dict(),
            "generators": self.generators.state(),
        }

    def load_state(self, state: dict) -> None:
        """Copies a `state()` into the tensors that exist; raises RuntimeError for one that does not fit."""
        self.owned.load_state_dict(state.get("owned", {}))
        self.targets.load_state_dict(state.get("targets", {}))
        self.generators.load_state(state["generators"])


def require_known(auxiliary: Auxiliary, moves: Sequence[str], groups: Sequence[str]) -> None:
    """Raises ConfigError for a word that an agent with these `moves` and `groups` to join would not act on."""
    words = [("when", auxiliary.when, PLACES), ("moves_targets", auxiliary.moves_targets, moves)]
    words += [("joins", group.joins, groups) for group in auxiliary.groups if group.joins is not None]
    for name, word, known in words:
        choices = " or ".join(known) if known else "left out"
        require(word in known, f"{type(auxiliary).__name__}: {name}={word!r} must be {choices} in this agent")


def whole_loss(auxiliary: Auxiliary, batch: Any, shared: Shared) -> tuple[Tensor, Metrics]:
    """The loss [.., B] of a batch with its graph, without `weight`, and metrics."""
    drawn = auxiliary.draw(batch, shared)
    values = auxiliary.loss(batch, shared, drawn, slice(None))
    return values["loss"], auxiliary.metrics(values, drawn)


def loss_in_slices(
    auxiliary: Auxiliary, batch: Any, shared: Shared, slices: Iterable[slice], backward: Callable[[Tensor], None]
) -> tuple[Tensor, Metrics]:
    """Computes the loss slice by slice to save memory.

    Each slice's loss [.., b] goes to `backward` before the next is encoded. `slices` cover the batch. The loss [.., B]
    that is returned has no gradient.
    """
    slices = list(slices)
    if not auxiliary.independent and len(slices) > 1:
        return loss_in_two_passes(auxiliary, batch, shared, slices, backward)
    drawn, found = auxiliary.draw(batch, shared), []
    for samples in slices:
        values = auxiliary.loss(batch, shared, drawn, samples)
        backward(values["loss"])
        found.append(values | {"loss": values["loss"].detach()})
    values = {name: torch.cat([each[name] for each in found], dim=1) for name in found[0]}
    return values["loss"], auxiliary.metrics(values, drawn)


def loss_in_two_passes(
    auxiliary: Auxiliary, batch: Any, shared: Shared, slices: Sequence[slice], backward: Callable[[Tensor], None]
) -> tuple[Tensor, Metrics]:
    """Computes a loss whose samples depend on each other, with the memory of one slice.

    A first pass embeds every slice without gradient. The loss of all embeddings goes to `backward`. A second pass
    embeds the slices again, each with the gradient that its embeddings received.
    """
    drawn = auxiliary.draw(batch, shared)
    with torch.no_grad():
        embedded = torch.cat([auxiliary.embed(batch, shared, drawn, samples) for samples in slices])
        targets = torch.cat([auxiliary.embed_targets(batch, shared, drawn, samples) for samples in slices])
    embedded.requires_grad_()
    values = auxiliary.compare(embedded, targets)
    backward(values["loss"])
    for samples in slices:
        again = auxiliary.embed(batch, shared, drawn, samples)
        with span("backward"):
            again.backward(embedded.grad[samples])
    values["loss"] = values["loss"].detach()
    return values["loss"], auxiliary.metrics(values, drawn)
