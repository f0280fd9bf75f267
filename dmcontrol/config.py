"""Schema of SAC's runs, on DMControl or an environment of the user's own: every value is in `configs/`."""

from typing import Annotated

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from auxiliaries import AUXILIARIES, AuxiliarySections
from dmcontrol.tasks import require_domain, require_named, require_task
from harness.command import config_groups
from harness.config import (
    STRICT,
    Decay,
    EnvironmentFacts,
    EnvStepsBudget,
    HostFacts,
    RatioLoopConfig,
    RunConfig,
    Share,
    any_task,
    one_of,
    require,
    validate_auxiliary,
    validate_run,
)
from mlr.config import AugmentationConfig, without_extra

RGB = 3  # channels of a frame
WITH_AUXILIARY = ("augmentation", "aux_optimizer", "aux_networks")  # sections that only an auxiliary reads


@dataclass(config=STRICT)
class EnvironmentConfig:
    image_size: Annotated[int, Field(ge=1, le=1024)]  # pixels a side, as rendered and stored
    frame_stack: PositiveInt  # RGB frames
    action_repeat: PositiveInt  # environment steps per agent step
    camera: NonNegativeInt
    episode_env_steps: PositiveInt  # time limit
    # Pixels a side of the renderer's shadow map, which is most of a picture's cost; 0: the task's own.
    shadow_size: Annotated[int, Field(ge=0, le=16384)]


@dataclass(config=STRICT)
class EncoderConfig:
    filters: PositiveInt  # channels of every convolution
    strides: Annotated[list[PositiveInt], Field(min_length=1)]  # one convolution 3x3 each
    latent: PositiveInt
    tanh: bool  # applied to the latent after its LayerNorm


@dataclass(config=STRICT)
class AgentConfig:
    encoder: EncoderConfig
    crop_size: PositiveInt  # pixels a side that the networks see
    rl_views: PositiveInt  # views of each observation of the RL batch; targets are their mean, losses their sum
    rl_pad: NonNegativeInt  # pixels of replication padding before the crop of the RL batch
    rl_crop_last_offset: bool  # crop of the RL batch may start at the last offset, F10
    hidden: PositiveInt  # width of actor and critic, two hidden layers each
    log_std_min: float
    log_std_max: float
    log_prob_floor: NonNegativeFloat  # added to the squashing's slope before its logarithm; 0: exact
    discount: Share
    batch_size: PositiveInt  # transitions
    learning_rate: PositiveFloat  # actor and critic
    adam_beta1: Decay
    adam_beta2: Decay
    adam_eps: PositiveFloat
    initial_temperature: PositiveFloat
    temperature_learning_rate: PositiveFloat
    temperature_beta1: Decay
    critic_tau: Share  # weight of the online Q heads in a soft update
    critic_encoder_tau: Share  # weight of the online encoder in a soft update of the critic's target
    update_every: PositiveInt  # updates between those of actor, temperature and all targets


@dataclass(config=STRICT)
class ReplayConfig:
    capacity: PositiveInt  # transitions
    window: PositiveInt  # steps of a sampled window


@dataclass(config=STRICT)
class AuxOptimizerConfig:
    """The auxiliary's own step, which trains the critic's encoder a second time."""

    batch_size: PositiveInt  # windows; an auxiliary that reads transitions takes the RL loss's batch
    learning_rate: PositiveFloat  # the peak of its schedule
    encoder_rate_factor: NonNegativeFloat  # factor of learning_rate for the critic's encoder
    warmup_updates: NonNegativeInt  # linear from warmup_start to 1, then sqrt(warmup_updates / n); 0: constant
    warmup_start: NonNegativeFloat
    clip_norm: PositiveFloat | None  # null: any


@dataclass(config=STRICT)
class AuxNetworksConfig:
    """Sizes and initial values of the networks that an auxiliary adds."""

    projection: PositiveInt  # hidden width of projector and predictor
    init_std: PositiveFloat  # linears: normal, truncated at one standard deviation
    redraw: bool  # draws the encoder's fc and the momentum copies' anew after an auxiliary is built, F7


@dataclass(config=STRICT)
class ResetConfig:
    every: NonNegativeInt  # agent steps; 0: none
    scope: Annotated[str, one_of("heads", "all")]  # heads: all behind the convolutions


@dataclass(config=STRICT, kw_only=True)
class DMControlConfig(AuxiliarySections, EnvStepsBudget, RunConfig):
    method: Annotated[str, one_of("sac")]
    settings: str  # task of the paper that the settings belong to, or general
    domain: str
    task_name: str
    env_steps: PositiveInt  # the budget
    eval_every_env_steps: NonNegativeInt  # 0: at the end only
    environment: EnvironmentConfig
    camera_by_domain: dict[str, NonNegativeInt]
    agent: AgentConfig
    replay: ReplayConfig
    loop: RatioLoopConfig
    resets: ResetConfig | None = None  # a step of the ladder fills it
    augmentation: AugmentationConfig | None = None
    aux_optimizer: AuxOptimizerConfig | None = None
    aux_networks: AuxNetworksConfig | None = None

    @property
    def without_host_work(self) -> "RunConfig":
        return without_extra(self)

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """[3K, H, W]"""
        environment = self.environment
        return RGB * environment.frame_stack, environment.image_size, environment.image_size

    def environment_facts(self, training: bool) -> EnvironmentFacts:
        """Needs of SAC in an environment of the user's own, in training and evaluation alike."""
        environment = self.environment
        return EnvironmentFacts(
            image_size=environment.image_size,
            channels=RGB,
            frame_stack=environment.frame_stack,
            padding="repeat",
            action_repeat=environment.action_repeat,
            time_limit=environment.episode_env_steps,
            discrete=False,
            elsewhere="mlr train atari takes Discrete",
        )


def validate(config: DMControlConfig) -> None:
    """Raises ConfigError, with what to do, for a configuration that cannot run."""
    validate_run(config, "dmcontrol", config.domain, config.task_name)
    if config.env:
        task = config.task_name or config.domain
        require(task == "", f"env={config.env} and a task of the suite, {task}, exclude each other: leave one out")
    else:
        validate_task(config)
    for domain in config.camera_by_domain:
        require_domain(domain)
    repeat = config.environment.action_repeat
    for key in ("env_steps", "eval_every_env_steps"):
        value = getattr(config, key)
        require(value % repeat == 0, f"{key}={value} is no multiple of environment.action_repeat={repeat}")
    require(
        config.loop.order == "overlapped",
        f"loop.order={config.loop.order}: on DMControl updates come before the step anyway, leave it at overlapped",
    )
    validate_agent(config)
    if config.augmentation is not None:
        config.augmentation.check(config.environment.image_size)
    validate_auxiliary(config, host_facts(config))
    validate_replay(config)


def host_facts(config: DMControlConfig) -> HostFacts:
    """Facts about this configuration's agent for an auxiliary."""
    encoder, size = config.agent.encoder, config.environment.image_size
    sides = map_sides(encoder, config.agent.crop_size)
    return HostFacts(
        image_size=size,
        latent_dim=encoder.latent,
        latent_shape=(encoder.latent,),
        map_sides=sides,
        map_channels=[encoder.filters] * len(sides),
        batch_size=config.agent.batch_size,
        window=config.replay.window,
        action_repeat=config.environment.action_repeat,
        discrete=False,
        require_task=any_task if config.env else require_named,
    )


def validate_task(config: DMControlConfig) -> None:
    require(config.domain != "", "task has no value: add task=NAME, or domain=D task_name=N for any other of the suite")
    require(config.task_name != "", f"task_name has no value: add task_name=NAME, a task of domain={config.domain}")
    require_task(config.domain, config.task_name)
    name = f"{config.domain}_{config.task_name}"
    own = config_groups("dmcontrol")["task"]
    require(
        config.settings == name or config.settings == "general" and name not in own,
        f"{name} would run with the settings of {config.settings}: "
        + (f"use task={name} alone" if name in own else "leave task out when domain and task_name are given"),
    )


def validate_agent(config: DMControlConfig) -> None:
    agent, encoder, size = config.agent, config.agent.encoder, config.environment.image_size
    require(agent.crop_size <= size, f"agent.crop_size={agent.crop_size} must be at most {size}, the side of the image")
    require(agent.rl_pad <= size, f"agent.rl_pad={agent.rl_pad} must be at most {size}, the side of the image")
    require(
        map_sides(encoder, agent.crop_size)[-1] >= 1,
        f"agent.encoder.strides={encoder.strides} do not fit a crop of {agent.crop_size} pixels",
    )
    require(
        agent.log_std_min < agent.log_std_max,
        f"agent.log_std_min={agent.log_std_min} must be below agent.log_std_max={agent.log_std_max}",
    )


def map_sides(encoder: EncoderConfig, crop_size: int) -> list[int]:
    """Sides of the maps after each convolution 3x3, in pixels; below 1 where one does not fit."""
    sides = [crop_size]
    for stride in encoder.strides:
        sides.append((sides[-1] - 3) // stride + 1)
    return sides[1:]


def validate_replay(config: DMControlConfig) -> None:
    """Raises ConfigError where an update would find no transition, or an auxiliary no window."""
    starts = config.loop.learning_starts
    require(starts > 0, f"loop.learning_starts={starts} must be at least 1: before that no transition is stored")
    if config.auxiliary not in AUXILIARIES or not AUXILIARIES[config.auxiliary].windows:
        return
    episode = config.episode_agent_steps
    window, capacity = config.replay.window, config.replay.capacity
    require(
        episode > window,
        f"replay.window={window} does not fit an episode of {episode} agent steps: a window may not hold its last one",
    )
    # An episode that has just begun has no window yet: then one of the episode before must be there still.
    least = 2 * window + 1
    require(capacity > least, f"replay.capacity={capacity} must be above {least}, or at times no window fits")
    require(
        starts > window,
        f"loop.learning_starts={starts} must be above replay.window={window}: before that no window is complete",
    )
