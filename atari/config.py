"""Schema of an Atari run: every value is in `configs/`."""

from dataclasses import dataclass

from mlr.config import (
    AugmentationConfig,
    LoopConfig,
    MLRConfig,
    one_of,
    require,
    validate_augmentation,
    validate_loop,
    validate_mlr,
)


@dataclass
class EnvironmentConfig:
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


@dataclass
class AtariConfig:
    benchmark: str
    game: str
    seed: int
    aux: str
    fidelity: str
    preset: str
    experiment: str
    run_dir: str
    device: str  # auto | cpu | cuda | cuda:N
    threads: int  # of torch on the CPU; 0 leaves the library's choice
    agent_steps: int
    eval_every: int  # agent steps; 0: at the end only
    checkpoint_every: int  # agent steps
    log_every: int  # agent steps
    video: bool  # record an episode of the last evaluation
    environment: EnvironmentConfig
    agent: AgentConfig
    replay: ReplayConfig
    augmentation: AugmentationConfig
    mlr: MLRConfig
    mlr_weight_by_game: dict[str, float]
    loop: LoopConfig
    evaluation: EvaluationConfig


def validate(config: AtariConfig) -> None:
    """Raises ConfigError, with what to do, for a configuration that cannot run."""
    from atari.games import require_game

    require_game(config.game)
    one_of("aux", config.aux, ("mlr", "none"))
    environment, agent, replay = config.environment, config.agent, config.replay
    for key in ("image_size", "frame_stack", "action_repeat", "horizon"):
        require(getattr(environment, key) >= 1, f"environment.{key}={getattr(environment, key)} must be at least 1")
    require(environment.max_noops >= 0, f"environment.max_noops={environment.max_noops} must not be negative")
    sticky = environment.sticky_actions
    require(0 <= sticky < 1, f"environment.sticky_actions={sticky} is a probability: choose it in 0..1, below 1")
    validate_mlr(config.mlr, environment.image_size)
    validate_augmentation(config.augmentation)
    validate_loop(config.loop)
    one_of("agent.n_step_done", agent.n_step_done, ("one_step", "n_step"))
    require(agent.n_step >= 1, f"agent.n_step={agent.n_step} must be at least 1")
    require(agent.batch_size >= 1, f"agent.batch_size={agent.batch_size} must be at least 1")
    require(agent.atoms >= 2, f"agent.atoms={agent.atoms} must be at least 2")
    require(agent.v_min < agent.v_max, f"agent.v_min={agent.v_min} must be below agent.v_max={agent.v_max}")
    require(
        len(agent.encoder.channels) == len(agent.encoder.kernels) == len(agent.encoder.strides) >= 1,
        "agent.encoder.channels, kernels and strides must have the same length, at least 1",
    )
    side = environment.image_size
    for kernel, stride in zip(agent.encoder.kernels, agent.encoder.strides, strict=True):
        side = (side - kernel) // stride + 1
    require(side >= 1, f"agent.encoder.kernels={agent.encoder.kernels} do not fit an image of {environment.image_size}")
    latent = agent.encoder.channels[-1] * side * side
    require(
        latent % (2 * config.mlr.decoder.heads) == 0,
        f"mlr.decoder.heads={config.mlr.decoder.heads} must divide the latent's {latent} values into even parts",
    )
    require(config.agent_steps >= 1, f"agent_steps={config.agent_steps} must be at least 1")
    lag = 1 + agent.n_step + config.mlr.seq_len
    first_start = environment.frame_stack - 1
    require(
        replay.capacity > lag + environment.frame_stack,
        f"replay.capacity={replay.capacity} must be above {lag + environment.frame_stack} for these windows",
    )
    require(
        config.loop.learning_starts + 1 > lag + first_start,
        f"loop.learning_starts={config.loop.learning_starts} must be at least {lag + first_start}: "
        "before that no window is complete",
    )
    require(config.evaluation.episodes >= 1, f"evaluation.episodes={config.evaluation.episodes} must be at least 1")
    for key in ("checkpoint_every", "log_every"):
        require(getattr(config, key) >= 1, f"{key}={getattr(config, key)} must be at least 1")
    require(config.eval_every >= 0, f"eval_every={config.eval_every} must not be negative")
