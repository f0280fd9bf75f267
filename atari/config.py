"""Schema of an Atari run: every value is in `configs/`."""

from dataclasses import dataclass

from atari.games import require_emulator, require_game
from harness.config import (
    LoggerConfig,
    LoopConfig,
    above,
    at_least,
    one_of,
    require,
    validate_hardware,
    validate_logger,
    validate_loop,
    validate_workers,
    within,
)
from mlr.config import (
    AugmentationConfig,
    MLRConfig,
    require_hidden,
    validate_augmentation,
    validate_mlr,
    validate_stage,
)


@dataclass
class EnvironmentConfig:
    emulator: str  # ale | atari_py
    image_size: int  # pixels a side
    frame_stack: int
    action_repeat: int  # emulator frames per agent step
    max_noops: int
    horizon: int  # agent steps; tested before the counter is increased
    sticky_actions: float  # probability that the emulator repeats the last action
    terminal_on_life_loss: bool  # training only: learning sees a lost life as an end


@dataclass
class EncoderConfig:
    channels: list[int]
    kernels: list[int]
    strides: list[int]


@dataclass
class AgentConfig:
    encoder: EncoderConfig
    hidden: int
    atoms: int
    v_min: float
    v_max: float
    noisy_sigma0: float
    head_gradient_scale: float  # factor on the RL gradient from the head into the encoder
    discount: float
    n_step: int
    n_step_done: str  # one_step | n_step: which flag stops the bootstrap
    batch_size: int
    learning_rate: float
    adam_eps: float
    adam_beta1: float
    adam_beta2: float
    clip_norm: float
    kl_floor: float  # of the target's probabilities in a priority, and of the priority's KL
    kl_ceiling: float
    epsilon_initial: float
    epsilon_final: float
    epsilon_start: int  # last iteration at epsilon_initial
    epsilon_steps: int  # iterations of the linear ramp to epsilon_final


@dataclass
class ReplayConfig:
    capacity: int  # agent steps
    alpha: float
    beta_initial: float
    beta_final: float
    beta_start: int  # iteration
    beta_end: int  # iteration
    default_priority: float
    priority_eps: float  # added to a leaf before its inverse is taken


@dataclass
class EvaluationConfig:
    episodes: int
    epsilon: float
    horizon: int  # agent steps
    environments: int  # stepped together
    workers: int  # processes over which the environments are spread; 0: they stay in the evaluating one
    background: bool  # in a process of its own, while training goes on
    timeout_seconds: float  # after which a silent process counts as hung


@dataclass
class AtariConfig:
    benchmark: str
    game: str
    emulator: str  # ale | atari_py, F8 in docs/fidelity.md
    seed: int
    aux: str
    fidelity: str
    preset: str
    experiment: str
    run_dir: str
    device: str  # auto | cpu | cuda | cuda:N
    threads: int  # of torch on the CPU; 0 leaves the library's choice
    precision: str  # fp32 | tf32 | bf16: of a GPU's products; bf16 also on the CPU
    deterministic: bool  # GPU: equal runs are equal bit for bit, and slower
    capture: str  # auto | off: updates on a GPU as CUDA graphs
    agent_steps: int
    eval_every: int  # agent steps; 0: at the end only
    checkpoint_every: int  # agent steps
    log_every: int  # agent steps
    video: bool  # record an episode of the last evaluation
    keep_weights: bool  # of every evaluation and checkpoint, not the newest alone
    environment: EnvironmentConfig
    agent: AgentConfig
    replay: ReplayConfig
    augmentation: AugmentationConfig
    mlr: MLRConfig
    mlr_weight_by_game: dict[str, float]
    loop: LoopConfig
    logger: LoggerConfig
    evaluation: EvaluationConfig

    @property
    def task(self) -> str:
        return self.game

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """[K, H, W]"""
        environment = self.environment
        return environment.frame_stack, environment.image_size, environment.image_size


def validate(config: AtariConfig) -> None:
    """Raises ConfigError, with what to do, for a configuration that cannot run."""
    require_game(config.game)
    for game, weight in config.mlr_weight_by_game.items():
        require_game(game)
        require(weight >= 0, f"mlr_weight_by_game.{game}={weight} must be at least 0")
    one_of("benchmark", config.benchmark, ("atari",))
    one_of("aux", config.aux, ("mlr", "none"))
    validate_hardware(config)
    validate_logger(config.logger)
    require(config.run_dir.strip() != "", "run_dir is empty: name a folder")
    at_least(1, "", config, "agent_steps", "checkpoint_every", "log_every")
    at_least(0, "", config, "seed", "eval_every")
    within(0, 1024, "threads", config.threads, "0 leaves the number to torch")
    at_least(1, "environment", config.environment, "image_size", "frame_stack", "action_repeat", "horizon")
    at_least(0, "environment", config.environment, "max_noops")
    within(0, 0.99, "environment.sticky_actions", config.environment.sticky_actions, "a probability")
    require_emulator(config.environment.emulator, config.environment.sticky_actions)
    require(
        config.environment.emulator == config.emulator,
        f"environment.emulator={config.environment.emulator} follows emulator={config.emulator}: set that one",
    )
    validate_mlr(config.mlr, config.environment.image_size)
    require_hidden(config.mlr, config.environment.image_size)
    validate_augmentation(config.augmentation, config.environment.image_size)
    validate_loop(config.loop)
    validate_agent(config.agent)
    validate_encoder(config)
    size = config.environment.image_size
    validate_stage(config.mlr.mask, size, map_sides(config.agent.encoder, size))
    validate_replay(config)
    at_least(1, "evaluation", config.evaluation, "episodes", "environments", "horizon")
    validate_workers(config.evaluation)
    within(0, 1, "evaluation.epsilon", config.evaluation.epsilon, "a probability")


def validate_agent(agent: AgentConfig) -> None:
    at_least(1, "agent", agent, "hidden", "n_step", "batch_size")
    at_least(2, "agent", agent, "atoms")
    at_least(0, "agent", agent, "noisy_sigma0", "head_gradient_scale", "epsilon_start", "epsilon_steps")
    above(0, "agent", agent, "learning_rate", "adam_eps", "clip_norm", "kl_floor", "kl_ceiling")
    within(0, 1, "agent.discount", agent.discount, "the weight of a reward one step later")
    for name in ("adam_beta1", "adam_beta2"):
        within(0, 0.999999, f"agent.{name}", getattr(agent, name), "the share that a moment keeps")
    for name in ("epsilon_initial", "epsilon_final"):
        within(0, 1, f"agent.{name}", getattr(agent, name), "a probability")
    one_of("agent.n_step_done", agent.n_step_done, ("one_step", "n_step"))
    require(agent.v_min < agent.v_max, f"agent.v_min={agent.v_min} must be below agent.v_max={agent.v_max}")


def validate_encoder(config: AtariConfig) -> None:
    encoder = config.agent.encoder
    require(
        len(encoder.channels) == len(encoder.kernels) == len(encoder.strides) >= 1,
        "agent.encoder.channels, kernels and strides must have the same length, at least 1",
    )
    for name in ("channels", "kernels", "strides"):
        values = getattr(encoder, name)
        require(min(values) >= 1, f"agent.encoder.{name}={values} must all be at least 1")
    sides = map_sides(encoder, config.environment.image_size)
    require(
        min(sides) >= 1,
        f"agent.encoder.kernels={encoder.kernels} do not fit an image of {config.environment.image_size} pixels",
    )
    latent, heads = encoder.channels[-1] * sides[-1] ** 2, config.mlr.decoder.heads
    require(
        latent % heads == 0 and latent % 2 == 0,
        f"the latent has {latent} values: it must be even, and a multiple of mlr.decoder.heads={heads}",
    )


def map_sides(encoder: EncoderConfig, image_size: int) -> list[int]:
    """Sides of the maps after each convolution, in pixels; below 1 where a kernel does not fit."""
    sides = [image_size]
    for kernel, stride in zip(encoder.kernels, encoder.strides, strict=True):
        sides.append((sides[-1] - kernel) // stride + 1)
    return sides[1:]


def validate_replay(config: AtariConfig) -> None:
    replay = config.replay
    at_least(0, "replay", replay, "alpha", "beta_initial", "beta_final", "beta_start")
    above(0, "replay", replay, "default_priority", "priority_eps")
    lag = 1 + config.agent.n_step + config.mlr.seq_len
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
