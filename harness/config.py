"""Schema of what every run shares. Values live in `configs/`; a field without one is an error.

Bounds stand on the fields, and pydantic checks them. Nothing here imports torch: a wrong configuration must be refused
before the slow imports start.
"""

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

DEVICE = r"auto|cpu|cuda(:\d+)?"
STRICT = ConfigDict(extra="forbid")


class ConfigError(ValueError):
    """A configuration that cannot run. The message is one line that says what to do."""


def one_of(*choices: str) -> AfterValidator:
    """Restricts a text to `choices`."""

    def check(value: str) -> str:
        if value not in choices:
            raise ValueError(f"is not one of {', '.join(choices)}")
        return value

    return AfterValidator(check)


def matching(pattern: str, complaint: str) -> AfterValidator:
    """Restricts a text to a pattern; `complaint` follows the key and its value."""

    def check(value: str) -> str:
        if re.fullmatch(pattern, value) is None:
            raise ValueError(complaint)
        return value

    return AfterValidator(check)


Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, le=0.999999)]  # share of a moving average that stays
Tags = list[Annotated[str, Field(min_length=1, max_length=64)]]


@dataclass(config=STRICT)
class LoopConfig:
    order: Annotated[str, one_of("overlapped", "released")]
    learning_starts: NonNegativeInt  # agent steps before the iteration of the first update


@dataclass(config=STRICT)
class RatioLoopConfig(LoopConfig):
    replay_ratio: NonNegativeFloat  # updates per agent step


@dataclass(config=STRICT)
class LoggerConfig:
    tensorboard: bool
    wandb: Annotated[str, one_of("off", "offline", "online")]
    # From here to the tags: W&B.
    project: Annotated[str, matching(r"[^/\\#?%:]{1,128}", "must have 1 to 128 characters, none of / \\ # ? % :")]
    entity: str  # empty: the account's own
    group: Annotated[str, Field(max_length=128)]  # empty: suite/task/experiment
    tags: Tags  # added to task, auxiliary, fidelity and preset
    send_every_seconds: PositiveFloat
    start_spread_seconds: NonNegativeFloat  # an online run waits a share of it first, by its folder's name
    start_timeout_seconds: PositiveFloat  # wait for the service's answer, after which the run is logged offline
    finish_timeout_seconds: PositiveFloat  # longest wait for the trackers at the end of a run


@dataclass(config=STRICT, kw_only=True)
class EvaluationConfig:
    episodes: PositiveInt
    environments: PositiveInt  # stepped together
    workers: NonNegativeInt  # processes over which the environments are spread; 0: they stay in the evaluating one
    background: bool  # in a process of its own, while training goes on
    timeout_seconds: Annotated[float, Field(ge=1)]  # silence after which a process counts as hung


@dataclass(config=STRICT, kw_only=True)
class RunConfig:
    """Keys of every run. Subclasses add those of a suite and a method."""

    suite: str
    method: str
    task: str  # its name in folders and tables
    env: str  # an environment of the user's own: package.module:callable or a Gymnasium id; empty: the suite's task
    seed: NonNegativeInt
    auxiliary: str
    fidelity: str
    preset: str
    experiment: str
    run_dir: Annotated[str, matching(r"(?s).*\S.*", "is empty: name a folder")]
    device: Annotated[str, matching(DEVICE, "is not one of auto, cpu, cuda, cuda:N")]
    threads: Annotated[int, Field(ge=0, le=1024)]  # torch's threads on the CPU; 0 leaves the library's choice
    precision: Annotated[str, one_of("fp32", "tf32", "bf16")]  # products on a GPU; bf16 also on the CPU
    deterministic: bool  # GPU: equal runs are equal bit for bit, and slower
    capture: Annotated[str, one_of("auto", "off")]  # updates on a GPU as CUDA graphs
    fused: Annotated[str, one_of("auto", "off")]  # kernels of a GPU for several operations
    compile: bool  # networks through torch's compiler
    checkpoint_every: PositiveInt  # agent steps
    log_every: PositiveInt  # agent steps
    video: bool  # record an episode of the last evaluation
    keep_weights: bool  # keeps the weights of every evaluation and checkpoint
    loop: LoopConfig
    logger: LoggerConfig
    evaluation: EvaluationConfig

    @property
    def eval_first(self) -> int:
        """Agent steps before the first evaluation; later ones follow every `eval_every`."""
        return 0

    @property
    def without_host_work(self) -> "RunConfig":
        """The configuration without what updates do on the host, which no recording repeats."""
        return self

    @property
    def auxiliary_section(self) -> Any:
        """Settings of the auxiliary, None for a run without one."""
        return getattr(self, self.auxiliary, None)


class EnvStepsBudget:
    """Lengths in agent steps of a configuration that gives them in environment steps."""

    env_steps: int
    eval_every_env_steps: int
    environment: Any

    @property
    def agent_steps(self) -> int:
        return self.env_steps // self.environment.action_repeat

    @property
    def episode_agent_steps(self) -> int:
        """Length of an episode that reaches its time limit."""
        return -(-self.environment.episode_env_steps // self.environment.action_repeat)

    @property
    def eval_every(self) -> int:
        """Agent steps."""
        return self.eval_every_env_steps // self.environment.action_repeat


@plain_dataclass(frozen=True)
class HostFacts:
    """Facts about an agent that an auxiliary's settings are checked against before anything is built."""

    image_size: int  # pixels a side of a stored frame
    latent_dim: int
    latent_shape: tuple[int, ...]  # shape of the maps [C, side, side] that a latent flattens, or of the vector [D]
    map_sides: list[int]  # sides of the encoder's maps, stage by stage
    map_channels: list[int]  # channels of the encoder's maps, stage by stage
    batch_size: int  # samples of the RL loss's batch
    window: int  # steps of a replay window
    action_repeat: int  # environment steps of an agent step
    discrete: bool  # actions are discrete
    require_task: Callable[[str], None]  # raises ConfigError for a name that no task of the suite has


def any_task(name: str) -> None:
    """Takes every name of a task: what `HostFacts.require_task` is for environments of the user's own."""


@plain_dataclass(frozen=True)
class EnvironmentFacts:
    """Needs of an agent that an environment of the user's own is adapted to."""

    image_size: int  # pixels a side of a frame
    channels: int  # channels of a frame: 1 grey, 3 RGB
    frame_stack: int
    padding: str  # filling of a stack before its episode's first frame: "zeros" or "repeat", as in the replay
    action_repeat: int  # environment steps per agent step
    time_limit: int  # environment steps of an episode
    discrete: bool  # actions are discrete
    elsewhere: str  # script for actions of the other kind, as a message ends


def as_dict(config: Any) -> dict:
    """A configuration as nested dicts, without the sections that no part of the run reads."""
    return {name: value for name, value in dataclasses.asdict(config).items() if value is not None}


def task_of(env: str, *names: str) -> str:
    """Name of a task in folders and tables: that of the user's environment, or the suite's own parts of it."""
    return re.sub(r"[^\w.-]", "_", env.split(":")[-1]) if env else "_".join(name for name in names if name)


def suite_of(env: str, suite: str) -> str:
    """Name of the suite that a run belongs to."""
    return "gymnasium" if env else suite


def validate_run(config: RunConfig, suite: str, *names: str) -> None:
    """Raises ConfigError for what no single field shows; `names` are the suite's own parts of a task's name."""
    for key, value in (("suite", suite_of(config.env, suite)), ("task", task_of(config.env, *names))):
        given = getattr(config, key)
        require(given == value, f"{key}={given} follows from other settings, and is {value} with these: leave it out")
    evaluation = config.evaluation
    require(
        evaluation.workers <= evaluation.environments,
        f"evaluation.workers={evaluation.workers} must be at most evaluation.environments={evaluation.environments}",
    )


def validate_auxiliary(config: RunConfig, facts: HostFacts) -> None:
    """Raises ConfigError where the auxiliary's settings, if there is one, do not fit the agent."""
    section = config.auxiliary_section
    if hasattr(section, "check"):
        section.check(facts)


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)
