"""Schema of Rainbow's runs, on Atari or an environment of the user's own: every value is in `configs/`."""

from typing import Annotated

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from atari.games import EMULATORS, require_emulator, require_game
from auxiliaries import AuxiliarySections
from harness.config import (
    STRICT,
    Decay,
    EnvironmentFacts,
    EvaluationConfig,
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


@dataclass(config=STRICT)
class EnvironmentConfig:
    emulator: Annotated[str, one_of(*EMULATORS)]  # F8 in docs/fidelity.md
    image_size: PositiveInt  # pixels a side
    frame_stack: PositiveInt
    action_repeat: PositiveInt  # emulator frames per agent step
    max_noops: NonNegativeInt
    horizon: PositiveInt  # agent steps; tested before the counter is increased
    sticky_actions: Annotated[float, Field(ge=0, le=0.99)]  # probability that the emulator repeats the last action
    terminal_on_life_loss: bool  # training only: learning sees a lost life as an end


@dataclass(config=STRICT)
class EncoderConfig:
    kind: Annotated[str, one_of("conv", "impala")]
    channels: list[PositiveInt]
    kernels: list[PositiveInt]  # impala: of the stages' maxima
    strides: list[PositiveInt]
    padding: Annotated[str, one_of("valid", "same")]
    blocks: NonNegativeInt  # residual ones of a stage; read with kind: impala


@dataclass(config=STRICT)
class AgentConfig:
    encoder: EncoderConfig
    head: Annotated[str, one_of("two_streams", "shared")]  # hidden layers before value and advantage
    hidden: PositiveInt  # width of a hidden layer
    init: Annotated[str, one_of("torch", "xavier")]  # initialisation of encoder and head
    noisy: bool
    atoms: Annotated[int, Field(ge=2)]
    v_min: float
    v_max: float
    noisy_sigma0: NonNegativeFloat
    head_gradient_scale: NonNegativeFloat  # factor on the RL gradient from the head into the encoder
    discount: Share
    n_step: PositiveInt
    n_step_done: Annotated[str, one_of("one_step", "n_step")]  # flag that stops the bootstrap
    n_step_state: Annotated[str, one_of("after", "last")]  # the bootstrap's: n steps later, or one earlier as released
    n_step_initial: PositiveInt | None  # n_step at the start of annealing; null: n_step itself
    discount_initial: Share | None  # discount at the start of annealing; null: discount itself
    anneal_updates: NonNegativeInt  # length of annealing, in updates since the last reset; 0: there is none
    batch_size: PositiveInt
    learning_rate: PositiveFloat
    adam_eps: PositiveFloat
    adam_beta1: Decay
    adam_beta2: Decay
    clip_norm: PositiveFloat | None  # null: any
    weight_decay: NonNegativeFloat  # decoupled, of all that has more than one axis
    target_tau: Share  # weight of the online network in each update of the target network; 1: it is the online network
    act_with: Annotated[str, one_of("online", "target")]
    next_views: Annotated[int, Field(ge=1, le=2)]  # views of the next observation; 2: one for each network
    kl_floor: PositiveFloat  # lower bound of the target's probabilities in a priority, and of the priority's KL
    kl_ceiling: PositiveFloat
    epsilon_initial: Share
    epsilon_final: Share
    epsilon_start: NonNegativeInt  # last iteration at epsilon_initial
    epsilon_steps: NonNegativeInt  # iterations of the linear ramp to epsilon_final

    @property
    def longest_n_step(self) -> int:
        return max(self.n_step, self.n_step_initial or 1)


@dataclass(config=STRICT)
class ReplayConfig:
    capacity: PositiveInt  # agent steps
    window: PositiveInt  # steps of a sampled sequence; decides which starts may be drawn, whatever reads them
    alpha: NonNegativeFloat
    beta_initial: NonNegativeFloat
    beta_final: NonNegativeFloat
    beta_start: NonNegativeInt  # iteration
    beta_end: int  # iteration
    default_priority: PositiveFloat
    priority_eps: PositiveFloat  # added to a leaf before its inverse is taken, and to the cross entropy
    priority: Annotated[str, one_of("kl", "cross_entropy")]
    new_priority: Annotated[str, one_of("default", "max")]  # leaf of a new start; max: the largest so far, at least 1
    stratified: bool  # one start from each of equal shares of the priorities


@dataclass(config=STRICT)
class ResetConfig:
    every: NonNegativeInt  # agent steps between two resets; the period is one longer, as released. 0: none
    none_after: NonNegativeInt  # agent steps; no reset falls into the last `every` before them
    shrink: Share  # factor of the encoder's weights
    perturb: Share  # factor of the fresh weights that are added to them
    auxiliary: Annotated[str, one_of("shrink", "redraw", "keep")]  # modules except heads, which are drawn anew
    scope: Annotated[str, one_of("network", "last_layers")]  # last_layers: the head's outputs alone


@dataclass(config=STRICT, kw_only=True)
class AtariEvaluationConfig(EvaluationConfig):
    epsilon: Share
    horizon: PositiveInt  # agent steps


@dataclass(config=STRICT, kw_only=True)
class AtariConfig(AuxiliarySections, RunConfig):
    method: Annotated[str, one_of("rainbow")]
    game: str
    agent_steps: PositiveInt
    eval_every: NonNegativeInt  # agent steps; 0: at the end only
    environment: EnvironmentConfig
    agent: AgentConfig
    replay: ReplayConfig
    augmentation: AugmentationConfig
    loop: RatioLoopConfig
    evaluation: AtariEvaluationConfig
    resets: ResetConfig | None = None  # a step of the ladder fills it

    @property
    def without_host_work(self) -> "RunConfig":
        return without_extra(self)

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """[K, H, W]"""
        environment = self.environment
        return environment.frame_stack, environment.image_size, environment.image_size

    def environment_facts(self, training: bool) -> EnvironmentFacts:
        """Needs of Rainbow in an environment of the user's own."""
        environment = self.environment
        horizon = environment.horizon if training else self.evaluation.horizon
        return EnvironmentFacts(
            image_size=environment.image_size,
            channels=1,
            frame_stack=environment.frame_stack,
            padding="zeros",
            action_repeat=environment.action_repeat,
            time_limit=horizon * environment.action_repeat,
            discrete=True,
            elsewhere="mlr train dmcontrol takes a Box",
        )


def validate(config: AtariConfig) -> None:
    """Raises ConfigError, with what to do, for a configuration that cannot run."""
    validate_run(config, "atari", config.game)
    if config.env:
        require(config.game == "", f"env={config.env} and game={config.game} exclude each other: leave one out")
    else:
        require(config.game != "", "game has no value: add game=NAME, such as pong, or env=package.module:callable")
        require_game(config.game)
        require_emulator(config.environment.emulator, config.environment.sticky_actions)
    config.augmentation.check(config.environment.image_size)
    agent = config.agent
    require(agent.v_min < agent.v_max, f"agent.v_min={agent.v_min} must be below agent.v_max={agent.v_max}")
    require(
        agent.anneal_updates > 0 or agent.n_step_initial is agent.discount_initial is None,
        "agent.anneal_updates=0 anneals nothing: leave agent.n_step_initial and agent.discount_initial at null",
    )
    require(
        agent.anneal_updates == 0 or not agent.n_step_initial is agent.discount_initial is None,
        f"agent.anneal_updates={agent.anneal_updates} has nothing to anneal: "
        "name agent.n_step_initial or agent.discount_initial, or ladder=annealing",
    )
    require(
        agent.anneal_updates == 0 or 1 not in (agent.discount, agent.discount_initial),
        "agent.anneal_updates needs agent.discount and agent.discount_initial below 1",
    )
    require(
        agent.target_tau < 1 or agent.act_with == "online",
        "agent.act_with=target needs a target network: set agent.target_tau below 1",
    )
    validate_encoder(config)
    validate_replay(config)
    resets, starts = config.resets, config.loop.learning_starts
    require(
        resets is None or resets.every == 0 or resets.every > starts,
        f"resets.every={resets and resets.every} must be 0 or above loop.learning_starts={starts}: "
        "before that nothing has been learned",
    )
    validate_auxiliary(config, host_facts(config))


def host_facts(config: AtariConfig) -> HostFacts:
    """Facts about this configuration's agent for an auxiliary."""
    encoder, size = config.agent.encoder, config.environment.image_size
    sides = map_sides(encoder, size)
    return HostFacts(
        image_size=size,
        latent_dim=encoder.channels[-1] * sides[-1] ** 2,
        latent_shape=(encoder.channels[-1], sides[-1], sides[-1]),
        map_sides=sides,
        map_channels=encoder.channels,
        batch_size=config.agent.batch_size,
        window=config.replay.window,
        action_repeat=config.environment.action_repeat,
        discrete=True,
        require_task=any_task if config.env else require_game,
    )


def validate_encoder(config: AtariConfig) -> None:
    encoder = config.agent.encoder
    require(
        len(encoder.channels) == len(encoder.kernels) == len(encoder.strides) >= 1,
        "agent.encoder.channels, kernels and strides must have the same length, at least 1",
    )
    require(
        encoder.kind == "conv" or encoder.padding == "same",
        f"agent.encoder.kind={encoder.kind} is padded: set agent.encoder.padding=same",
    )
    require(
        min(map_sides(encoder, config.environment.image_size)) >= 1,
        f"agent.encoder.kernels={encoder.kernels} do not fit an image of {config.environment.image_size} pixels",
    )


def map_sides(encoder: EncoderConfig, image_size: int) -> list[int]:
    """Sides of the maps after each convolution, in pixels; below 1 where a kernel does not fit."""
    sides = [image_size]
    for kernel, stride in zip(encoder.kernels, encoder.strides, strict=True):
        sides.append(-(-sides[-1] // stride) if encoder.padding == "same" else (sides[-1] - kernel) // stride + 1)
    return sides[1:]


def validate_replay(config: AtariConfig) -> None:
    replay = config.replay
    lag = 1 + config.agent.longest_n_step + replay.window
    history = config.environment.frame_stack
    require(
        replay.capacity > lag + history,
        f"replay.capacity={replay.capacity} must be above {lag + history} for these windows",
    )
    require(
        config.loop.learning_starts >= lag + history,
        f"loop.learning_starts={config.loop.learning_starts} must be at least {lag + history}: "
        "before that no window is complete",
    )
