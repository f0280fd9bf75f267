"""Schema of a DMControl run: every value is in `configs/`."""

from dataclasses import dataclass

from dmcontrol.tasks import PAPER_TASKS, require_domain, require_task
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

RGB = 3  # channels of a frame


@dataclass
class EnvironmentConfig:
    image_size: int  # pixels a side, as rendered and stored
    frame_stack: int  # RGB frames
    action_repeat: int  # environment steps per agent step
    camera: int
    episode_env_steps: int  # time limit
    shadow_size: int  # pixels a side of the renderer's shadow map, which is most of a picture's cost; 0: the task's own


@dataclass
class EncoderConfig:
    filters: int  # of every convolution
    strides: list[int]  # one convolution 3x3 each
    latent: int


@dataclass
class AgentConfig:
    encoder: EncoderConfig
    crop_size: int  # pixels a side that the networks see
    rl_crop_last_offset: bool  # whether the crop of the RL batch may start at the last offset, F10
    hidden: int  # of actor and critic, two layers each
    log_std_min: float
    log_std_max: float
    discount: float
    batch_size: int  # transitions
    learning_rate: float  # actor and critic
    adam_beta1: float
    adam_beta2: float
    adam_eps: float
    initial_temperature: float
    temperature_learning_rate: float
    temperature_beta1: float
    critic_tau: float  # weight of the online Q heads in a soft update
    critic_encoder_tau: float  # weight of the online encoder in a soft update of the critic's target
    update_every: int  # updates between those of actor, temperature and all targets


@dataclass
class ReplayConfig:
    capacity: int  # transitions


@dataclass
class MLRAgentConfig:
    """How SAC trains the auxiliary: a step of its own."""

    batch_size: int  # windows
    learning_rate: float  # the peak of its schedule
    warmup_updates: int  # linear from warmup_start to 1, then sqrt(warmup_updates / n)
    warmup_start: float
    clip_norm: float
    projection: int  # hidden width of projector and predictor
    init_std: float  # linears: normal, truncated at one standard deviation
    redraw: bool  # whether building the auxiliary draws fc layers and target projector anew, F7


@dataclass
class EvaluationConfig:
    episodes: int
    environments: int  # stepped together
    workers: int  # processes over which the environments are spread; 0: they stay in the evaluating one
    background: bool  # in a process of its own, while training goes on
    timeout_seconds: float  # after which a silent process counts as hung


@dataclass
class DMControlConfig:
    benchmark: str
    task: str
    settings: str  # whose these are: a task of the paper's, or general
    domain: str
    task_name: str
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
    env_steps: int  # the budget
    eval_every_env_steps: int  # 0: at the end only
    checkpoint_every: int  # agent steps
    log_every: int  # agent steps
    video: bool  # record an episode of the last evaluation
    keep_weights: bool  # of every evaluation and checkpoint, not of the newest and the budgets alone
    environment: EnvironmentConfig
    camera_by_domain: dict[str, int]
    agent: AgentConfig
    replay: ReplayConfig
    augmentation: AugmentationConfig
    mlr: MLRConfig
    mlr_agent: MLRAgentConfig
    loop: LoopConfig
    logger: LoggerConfig
    evaluation: EvaluationConfig

    @property
    def agent_steps(self) -> int:
        return self.env_steps // self.environment.action_repeat

    @property
    def episode_agent_steps(self) -> int:
        """Of an episode that runs into its time limit."""
        return -(-self.environment.episode_env_steps // self.environment.action_repeat)

    @property
    def eval_every(self) -> int:
        """Agent steps."""
        return self.eval_every_env_steps // self.environment.action_repeat

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """[3K, H, W]"""
        environment = self.environment
        return RGB * environment.frame_stack, environment.image_size, environment.image_size


def validate(config: DMControlConfig) -> None:
    """Raises ConfigError, with what to do, for a configuration that cannot run."""
    require_task(config.domain, config.task_name)
    name = f"{config.domain}_{config.task_name}"
    require(
        config.settings == name or config.settings == "general" and name not in PAPER_TASKS,
        f"{name} would run with the settings of {config.settings}: "
        + (f"use task={name} alone" if name in PAPER_TASKS else "leave task out when domain and task_name are given"),
    )
    one_of("benchmark", config.benchmark, ("dmcontrol",))
    one_of("aux", config.aux, ("mlr", "none"))
    validate_hardware(config)
    validate_logger(config.logger)
    require(config.run_dir.strip() != "", "run_dir is empty: name a folder")
    at_least(1, "", config, "env_steps", "checkpoint_every", "log_every")
    at_least(0, "", config, "seed", "eval_every_env_steps")
    within(0, 1024, "threads", config.threads, "0 leaves the number to torch")
    validate_environment(config)
    validate_augmentation(config.augmentation, config.environment.image_size)
    validate_loop(config.loop)
    require(
        config.loop.order == "overlapped",
        f"loop.order={config.loop.order}: on DMControl updates come before the step anyway, leave it at overlapped",
    )
    validate_agent(config)
    validate_mlr(config.mlr, config.environment.image_size)
    require_hidden(config.mlr, config.environment.image_size)
    sides = map_sides(config.agent.encoder, config.agent.crop_size)
    validate_stage(config.mlr.mask, config.environment.image_size, sides)
    validate_mlr_agent(config.mlr_agent)
    validate_replay(config)
    at_least(1, "evaluation", config.evaluation, "episodes", "environments")
    validate_workers(config.evaluation)


def validate_environment(config: DMControlConfig) -> None:
    environment = config.environment
    at_least(1, "environment", environment, "frame_stack", "action_repeat", "episode_env_steps")
    at_least(0, "environment", environment, "camera")
    within(1, 1024, "environment.image_size", environment.image_size, "pixels a side")
    within(0, 16384, "environment.shadow_size", environment.shadow_size, "pixels a side")
    for domain, camera in config.camera_by_domain.items():
        require_domain(domain)
        require(camera >= 0, f"camera_by_domain.{domain}={camera} must be at least 0")
    for key in ("env_steps", "eval_every_env_steps"):
        value = getattr(config, key)
        require(
            value % environment.action_repeat == 0,
            f"{key}={value} is no multiple of environment.action_repeat={environment.action_repeat}",
        )


def validate_agent(config: DMControlConfig) -> None:
    agent, encoder = config.agent, config.agent.encoder
    at_least(1, "agent", agent, "hidden", "batch_size", "crop_size", "update_every")
    at_least(1, "agent.encoder", encoder, "filters", "latent")
    require(
        len(encoder.strides) >= 1 and min(encoder.strides) >= 1,
        f"agent.encoder.strides={encoder.strides} must be at least one stride, all at least 1",
    )
    within(1, config.environment.image_size, "agent.crop_size", agent.crop_size, "at most the side of the image")
    require(
        map_sides(encoder, agent.crop_size)[-1] >= 1,
        f"agent.encoder.strides={encoder.strides} do not fit a crop of {agent.crop_size} pixels",
    )
    heads = config.mlr.decoder.heads
    require(
        encoder.latent % 2 == 0 and encoder.latent % heads == 0,
        f"agent.encoder.latent={encoder.latent} must be even, and a multiple of mlr.decoder.heads={heads}",
    )
    above(0, "agent", agent, "learning_rate", "adam_eps", "initial_temperature", "temperature_learning_rate")
    within(0, 1, "agent.discount", agent.discount, "the weight of a reward one step later")
    for name in ("adam_beta1", "adam_beta2", "temperature_beta1"):
        within(0, 0.999999, f"agent.{name}", getattr(agent, name), "the share that a moment keeps")
    for name in ("critic_tau", "critic_encoder_tau"):
        within(0, 1, f"agent.{name}", getattr(agent, name), "the weight of the online network")
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


def validate_mlr_agent(mlr_agent: MLRAgentConfig) -> None:
    at_least(1, "mlr_agent", mlr_agent, "batch_size", "projection", "warmup_updates")
    at_least(0, "mlr_agent", mlr_agent, "warmup_start")
    above(0, "mlr_agent", mlr_agent, "learning_rate", "clip_norm", "init_std")


def validate_replay(config: DMControlConfig) -> None:
    at_least(1, "replay", config.replay, "capacity")
    if config.aux == "none":
        return
    episode = config.episode_agent_steps
    seq_len, capacity, starts = config.mlr.seq_len, config.replay.capacity, config.loop.learning_starts
    require(
        episode > seq_len,
        f"mlr.seq_len={seq_len} does not fit an episode of {episode} agent steps: a window may not hold its last one",
    )
    # An episode that has just begun has no window yet: then one of the episode before must be there still.
    least = 2 * seq_len + 1
    require(capacity > least, f"replay.capacity={capacity} must be above {least}, or at times no window fits")
    require(
        starts > seq_len,
        f"loop.learning_starts={starts} must be above mlr.seq_len={seq_len}: before that no window is complete",
    )
