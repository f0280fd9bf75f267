"""Schema of MWM's runs. Values live in `configs/`; a field without one is an error.

Nothing here imports torch: a wrong configuration must be refused before the slow imports start.
"""

from typing import Annotated

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from harness.config import (
    STRICT,
    Decay,
    EnvironmentFacts,
    EnvStepsBudget,
    RunConfig,
    Share,
    one_of,
    require,
    validate_run,
)
from mwm.tasks import MANIPULATION_PREFIX, SUITE_PREFIX, require_task

RGB = 3  # channels of a picture
PATCH = 8  # pixels a side of a token's cell; the convolutional stem halves three times
KINDS = ("autoencoder", "dynamics")  # updates in their order; dynamics also trains actor and critic on its states
WORLD_MODELS = {"mwm": KINDS, "pixels": ("dynamics",)}  # world model -> its kinds of updates
OF_TOKENS = "stem mask_ratio reward_prediction reward_head encoder decoder pool unpool"
# Keys and sections that no part of a run reads, by its world model.
IDLE = {
    "mwm": ["mwm.pixels"],
    "pixels": [f"mwm.{name}" for name in (*OF_TOKENS.split(), "optimizers.autoencoder", "batch.pictures")],
}
Widths = Annotated[list[PositiveInt], Field(min_length=1)]  # widths of an MLP's hidden layers


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
    variables: PositiveInt  # categorical variables of the stochastic state
    classes: Annotated[int, Field(ge=2)]  # classes of each categorical variable
    action_inputs: PositiveInt  # actions are filled up with zeros to this number


@dataclass(config=STRICT)
class KLConfig:
    balance: Share  # weight of the term that trains the prior; the rest trains the posterior
    free: NonNegativeFloat  # below it a step's value gives no gradient
    largest: PositiveFloat  # above it a step's value gives no gradient
    scale: NonNegativeFloat


@dataclass(config=STRICT)
class BehaviourConfig:
    horizon: Annotated[int, Field(ge=2)]  # imagined steps
    discount: Share
    lambda_return: Share
    entropy_scale: NonNegativeFloat
    min_std: Annotated[float, Field(gt=0, lt=1)]  # smallest standard deviation of the policy; the largest is 1
    reward_momentum: Share  # momentum of the mean magnitude that rewards are divided by; 1: no division
    target_every: PositiveInt  # updates between copies of the critic into its target


@dataclass(config=STRICT)
class AdamConfig:
    learning_rate: PositiveFloat
    warmup_updates: NonNegativeInt  # updates over which the rate rises from 0
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
    pictures: PositiveInt  # pictures in an autoencoder update
    windows: PositiveInt  # windows in a dynamics update, replay.window steps each; every state starts an imagination


@dataclass(config=STRICT)
class ScheduleConfig:
    pretraining: PositiveInt  # autoencoder updates at the start, the first of them with a dynamics update
    every: PositiveInt  # agent steps between later updates of both kinds


@dataclass(config=STRICT)
class PixelsConfig:
    depth: PositiveInt  # filters of the first convolution; each further one has twice as many


@dataclass(config=STRICT)
class MWMSection:
    world_model: Annotated[str, one_of(*WORLD_MODELS)]
    stem: Annotated[str, one_of("conv", "patch")]
    mask_ratio: Annotated[float, Field(ge=0, lt=1)]  # share of the tokens that are dropped
    reward_prediction: bool  # autoencoder also predicts rewards
    reward_head: Annotated[str, one_of("last_patch", "reward_token")]
    actor_gradient: Annotated[str, one_of("released", "pathwise")]
    adam_eps: Annotated[str, one_of("tensorflow", "torch")]
    update_at: Annotated[str, one_of("first", "last")]  # first or last of schedule.every agent steps
    discount_head: bool
    encoder: ViTConfig
    decoder: ViTConfig
    pool: ViTConfig
    unpool: ViTConfig
    pixels: PixelsConfig  # read with world_model=pixels, in place of encoder, decoder, pool and unpool
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


def suite_of_task(task: str) -> str:
    """Suite of a task, by the beginning of its name."""
    return "dmcontrol" if task.startswith((SUITE_PREFIX, MANIPULATION_PREFIX)) else "metaworld"


def kept_tokens(tokens: int, mask_ratio: float) -> int:
    """Number of tokens that a mask leaves; the float product is cut as it comes."""
    return int(tokens * (1 - mask_ratio))


@dataclass(config=STRICT)
class EnvironmentConfig:
    image_size: Annotated[int, Field(ge=1, le=1024)]  # pixels a side, as rendered and stored
    action_repeat: PositiveInt  # environment steps per agent step
    episode_env_steps: PositiveInt  # time limit
    shadows: bool  # renders shadows and reflections, most of a picture's cost in software


@dataclass(config=STRICT)
class ReplayConfig:
    capacity: PositiveInt  # agent steps
    window: PositiveInt  # pictures
    shortest_window: PositiveInt  # pictures; shorter episodes are left out
    prioritize_ends: bool  # starts beyond the last one count as the last


@dataclass(config=STRICT, kw_only=True)
class MWMConfig(EnvStepsBudget, RunConfig):
    method: Annotated[str, one_of("mwm")]
    auxiliary: Annotated[str, one_of("none")]
    env_steps: PositiveInt  # the budget
    eval_first_env_steps: NonNegativeInt
    eval_every_env_steps: NonNegativeInt  # 0: at the end only
    environment: EnvironmentConfig
    replay: ReplayConfig
    mwm: MWMSection

    @property
    def eval_first(self) -> int:
        return self.eval_first_env_steps // self.environment.action_repeat

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """[3, S, S]"""
        return RGB, self.environment.image_size, self.environment.image_size

    def environment_facts(self, training: bool) -> EnvironmentFacts:
        """Needs of MWM in an environment of the user's own, in training and evaluation alike."""
        environment = self.environment
        return EnvironmentFacts(
            image_size=environment.image_size,
            channels=RGB,
            frame_stack=1,
            padding="repeat",
            action_repeat=environment.action_repeat,
            time_limit=environment.episode_env_steps,
            discrete=False,
            elsewhere="mlr train atari takes Discrete",
        )


def validate(config: MWMConfig) -> None:
    """Raises ConfigError, with what to do, for a configuration that cannot run."""
    if not config.env:
        require(config.task != "", "task has no value: add task=NAME, such as window_close, or env=module:callable")
        require_task(config.task)
    validate_run(config, suite_of_task(config.task), *([] if config.env else [config.task]))
    config.mwm.check(config.environment.image_size)
    require(
        config.loop.order == "released",
        f"loop.order={config.loop.order}: the pretraining can be stopped inside with loop.order=released only",
    )
    repeat = config.environment.action_repeat
    for key in ("env_steps", "eval_first_env_steps", "eval_every_env_steps"):
        value = getattr(config, key)
        require(value % repeat == 0, f"{key}={value} is no multiple of environment.action_repeat={repeat}")
    validate_replay(config)


def validate_replay(config: MWMConfig) -> None:
    """Raises ConfigError where an update would find no window."""
    replay, episode = config.replay, config.episode_agent_steps
    require(
        replay.shortest_window <= replay.window,
        f"replay.shortest_window={replay.shortest_window} must be at most replay.window={replay.window}",
    )
    require(
        replay.shortest_window <= episode + 1,
        f"replay.shortest_window={replay.shortest_window} does not fit an episode of {episode + 1} pictures: lower it",
    )
    require(
        config.loop.learning_starts >= episode,
        f"loop.learning_starts={config.loop.learning_starts} must be at least {episode}, an episode's agent steps: "
        "updates read finished episodes",
    )
    require(
        replay.capacity >= 2 * episode,
        f"replay.capacity={replay.capacity} must be at least {2 * episode}: a finished episode beside the running one",
    )
