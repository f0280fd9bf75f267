"""Schemas of the auxiliaries that are no package of their own. Values live in `configs/`.

Nothing here imports torch: a wrong configuration must be refused before the slow imports start.
"""

from typing import Annotated

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from harness.config import STRICT, HostFacts, Share, one_of, require


@dataclass(config=STRICT)
class CURLConfig:
    weight: NonNegativeFloat
    weight_by_task: dict[str, NonNegativeFloat]  # task -> weight, read unless `weight` is set
    temperature: PositiveFloat  # factor of the logits
    # Width of a head between latents and contrast, with momentum copies of it and of the encoder for the keys.
    # 0: there is none, latents are compared as they are, and the critic's target encoder makes the keys.
    hidden: NonNegativeInt
    width: PositiveInt  # width of the head's output; read, like tau, where hidden is above 0
    tau: Share  # weight of the online network in a momentum update

    def check(self, facts: HostFacts) -> None:
        """Raises ConfigError where the agent has no keys to compare with."""
        for task in self.weight_by_task:
            facts.require_task(task)
        require(
            self.hidden > 0 or not facts.discrete,
            "curl.hidden=0 compares with the critic's target encoder, which Rainbow lacks: it must be at least 1",
        )


@dataclass(config=STRICT)
class AutoencoderConfig:
    weight: NonNegativeFloat
    bits: Annotated[int, Field(ge=1, le=8)]  # depth of a reconstructed pixel
    latent_penalty: NonNegativeFloat  # factor of half the latent's squared norm
    weight_decay: NonNegativeFloat  # decay of the decoder, added to its gradient

    def check(self, facts: HostFacts) -> None:
        """Raises ConfigError for an agent without a step of its own for the auxiliary."""
        require(
            not facts.discrete,
            "auxiliary=autoencoder needs a step of its own, which Rainbow lacks: use mlr train dmcontrol, or "
            "another auxiliary",
        )


@dataclass(config=STRICT)
class SPRConfig:
    steps: PositiveInt  # K, latents that are predicted in a row
    weight: NonNegativeFloat  # factor of the loss, a mean over the steps
    tau: Share  # weight of the online network in a momentum update
    norm_floor: PositiveFloat  # vectors are divided by max(norm, norm_floor)
    # Hidden widths of the transition model and of projector and predictor where latents are vectors. Null where they
    # are maps: the model keeps their channels, and the agent's own projector serves.
    width: PositiveInt | None
    projection: PositiveInt | None

    def check(self, facts: HostFacts, section: str = "spr") -> None:
        """Raises ConfigError for more steps than a window has, or networks that do not fit the latents."""
        require(
            self.steps < facts.window,
            f"{section}.steps={self.steps} reads {self.steps + 1} steps, more than replay.window={facts.window}: "
            "raise replay.window or lower the steps",
        )
        for name in ("width", "projection"):
            value, vectors = getattr(self, name), len(facts.latent_shape) == 1
            asked = (
                "must be at least 1, this agent's latents are vectors" if vectors else "must be null, as maps need none"
            )
            require((value is not None) == vectors, f"{section}.{name}={'null' if value is None else value} {asked}")
        require(
            len(facts.latent_shape) == 1 or facts.batch_size * facts.map_sides[-1] ** 2 > 1,
            f"agent.batch_size=1 with maps of one pixel leaves {section}'s batch normalisation a single value: "
            "raise agent.batch_size or environment.image_size",
        )


@dataclass(config=STRICT)
class PlayVirtualConfig(SPRConfig):
    copies: PositiveInt  # M, virtual trajectories of an observation
    copies_per_action: bool  # M is `copies` times the number of actions
    cycle_weight: NonNegativeFloat  # after the ramp
    ramp_steps: PositiveInt  # steps over which the cycle's weight grows
    ramp_exponent: NonNegativeFloat  # the weight starts at exp(-ramp_exponent)
    ramp_unit: Annotated[str, one_of("agent_steps", "env_steps")]

    def check(self, facts: HostFacts, section: str = "playvirtual") -> None:
        """Raises ConfigError for settings of SPR or virtual trajectories that cannot work."""
        super().check(facts, section)
        require(
            facts.discrete or not self.copies_per_action,
            "playvirtual.copies_per_action=true counts actions, and these are continuous: set it to false",
        )
