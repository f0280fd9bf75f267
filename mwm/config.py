"""Schema of the section `mwm:`. Values live in `configs/`; a field without one is an error.

Nothing here imports torch: a wrong configuration must be refused before the slow imports start.
"""

from typing import Annotated

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from harness.config import STRICT, Decay, Share, one_of, require

PATCH = 8  # pixels a side of a token's cell; the convolutional stem halves three times
KINDS = ("autoencoder", "dynamics")  # of updates, in their order; dynamics: with actor and critic on its states
Widths = Annotated[list[PositiveInt], Field(min_length=1)]  # of an MLP's hidden layers


@dataclass(config=STRICT)
class ViTConfig:
    width: PositiveInt
    blocks: PositiveInt
    heads: PositiveInt
    mlp_ratio: PositiveFloat  # width of a block's MLP, relative to its own


@dataclass(config=STRICT)
class RSSMConfig:
    hidden: PositiveInt
    deter: PositiveInt  # width of the recurrent state
    variables: PositiveInt  # of the stochastic state
    classes: Annotated[int, Field(ge=2)]  # of each variable
    action_inputs: PositiveInt  # actions are filled up with zeros to this number


@dataclass(config=STRICT)
class KLConfig:
    balance: Share  # of the term that trains the prior; the rest trains the posterior
    free: NonNegativeFloat  # below it a step's value gives no gradient
    largest: PositiveFloat  # above it, too
    scale: NonNegativeFloat


@dataclass(config=STRICT)
class BehaviourConfig:
    horizon: Annotated[int, Field(ge=2)]  # imagined steps
    discount: Share
    lambda_return: Share
    entropy_scale: NonNegativeFloat
    min_std: Annotated[float, Field(gt=0, lt=1)]  # of the policy; the largest is 1
    reward_momentum: Share  # of the mean magnitude that rewards are divided by; 1: they are not
    target_every: PositiveInt  # updates between copies of the critic into its target


@dataclass(config=STRICT)
class AdamConfig:
    learning_rate: PositiveFloat
    warmup_updates: NonNegativeInt  # over which the rate rises from 0
    beta1: Decay
    beta2: Decay
    eps: PositiveFloat
    clip_norm: PositiveFloat
    weight_decay: Share  # taken off the weights at each step, not times the rate
    decayed: Annotated[str, one_of("all", "matrices")]


@dataclass(config=STRICT)
class OptimizersConfig:
    autoencoder: AdamConfig
    dynamics: AdamConfig
    actor: AdamConfig
    critic: AdamConfig


@dataclass(config=STRICT)
class BatchConfig:
    pictures: PositiveInt  # of an autoencoder update
    windows: PositiveInt  # of a dynamics update, replay.window steps each; all their states start an imagination


@dataclass(config=STRICT)
class ScheduleConfig:
    pretraining: PositiveInt  # autoencoder updates at the start, the first of them with a dynamics update
    every: PositiveInt  # agent steps between later updates of both kinds


@dataclass(config=STRICT)
class MWMSection:
    world_model: Annotated[str, one_of("mwm")]
    stem: Annotated[str, one_of("conv", "patch")]
    mask_ratio: Annotated[float, Field(ge=0, lt=1)]  # share of the tokens that are dropped
    reward_prediction: bool  # of the autoencoder
    reward_head: Annotated[str, one_of("last_patch", "reward_token")]
    actor_gradient: Annotated[str, one_of("released", "pathwise")]
    adam_eps: Annotated[str, one_of("tensorflow", "torch")]
    update_at: Annotated[str, one_of("first", "last")]  # of schedule.every agent steps
    discount_head: bool
    encoder: ViTConfig
    decoder: ViTConfig
    pool: ViTConfig
    unpool: ViTConfig
    rssm: RSSMConfig
    kl: KLConfig
    reward_mlp: Widths
    discount_mlp: Widths
    actor_mlp: Widths
    critic_mlp: Widths
    behaviour: BehaviourConfig
    optimizers: OptimizersConfig
    batch: BatchConfig
    schedule: ScheduleConfig

    def check(self, image_size: int) -> None:
        """Raises ConfigError if the networks cannot be built for pictures of `image_size` pixels a side."""
        require(
            image_size % PATCH == 0,
            f"environment.image_size={image_size} must be a multiple of {PATCH}, the side of a token's cell",
        )
        for name in ("encoder", "decoder", "pool", "unpool"):
            width, heads = getattr(self, name).width, getattr(self, name).heads
            require(width % heads == 0, f"mwm.{name}.width={width} must be a multiple of mwm.{name}.heads={heads}")
            require(width % 4 == 0, f"mwm.{name}.width={width} must be a multiple of 4: positions have two coordinates")
        require(
            self.stem == "patch" or self.encoder.width % 8 == 0,
            f"mwm.encoder.width={self.encoder.width} must be a multiple of 8: the stem's convolutions begin with it",
        )
        tokens = (image_size // PATCH) ** 2
        require(
            kept_tokens(tokens, self.mask_ratio) > 0,
            f"mwm.mask_ratio={self.mask_ratio} of {tokens} tokens leaves none: lower it",
        )
        kl = self.kl
        require(kl.free < kl.largest, f"mwm.kl.free={kl.free} must be below mwm.kl.largest={kl.largest}")


def kept_tokens(tokens: int, mask_ratio: float) -> int:
    """Number of tokens that a mask leaves; the float product is cut as it comes."""
    return int(tokens * (1 - mask_ratio))
