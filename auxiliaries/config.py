"""Schemas of the auxiliaries that are no package of their own. Values live in `configs/`.

Nothing here imports torch: a wrong configuration must be refused before the slow imports start.
"""

from typing import Annotated

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from harness.config import STRICT, HostFacts, Share, require


@dataclass(config=STRICT)
class CURLConfig:
    weight: NonNegativeFloat
    weight_by_task: dict[str, NonNegativeFloat]  # where `weight` comes from, unless it is set
    temperature: PositiveFloat  # factor of the logits
    # Width of a head between latents and contrast, with momentum copies of it and of the encoder for the keys.
    # 0: there is none, latents are compared as they are, and the critic's target encoder makes the keys.
    hidden: NonNegativeInt
    width: PositiveInt  # of the head's output; from here on read with `hidden`
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
    bits: Annotated[int, Field(ge=1, le=8)]  # of a pixel that is reconstructed
    latent_penalty: NonNegativeFloat  # of half the latent's squared norm
    weight_decay: NonNegativeFloat  # of the decoder, in the gradient

    def check(self, facts: HostFacts) -> None:
        """Raises ConfigError for an agent without a step of its own for the auxiliary."""
        require(
            not facts.discrete,
            "auxiliary=autoencoder needs a step of its own, which Rainbow lacks: use scripts/train_dmcontrol.py, or "
            "another auxiliary",
        )
