"""Schema of what every run shares. Values live in `configs/`; a field without one is an error.

Nothing here imports torch: a wrong configuration must be refused before the slow imports start.
"""

import re
from dataclasses import dataclass


class ConfigError(ValueError):
    """A configuration that cannot run. The message is one line that says what to do."""


@dataclass
class LoopConfig:
    order: str  # overlapped | released
    learning_starts: int  # agent steps before the iteration of the first update
    replay_ratio: float  # updates per agent step


@dataclass
class LoggerConfig:
    tensorboard: bool
    wandb: str  # off | offline | online
    project: str  # this and what follows, up to the tags: of W&B
    entity: str  # empty: the account's own
    group: str  # empty: benchmark/task/experiment
    tags: list[str]  # beside task, aux, fidelity and preset
    send_every_seconds: float
    start_spread_seconds: float  # an online run waits a share of it first, by its folder's name
    start_timeout_seconds: float  # without an answer from the service, after which it is logged offline
    finish_timeout_seconds: float  # how long the end of a run waits for its trackers


def validate_loop(loop: LoopConfig) -> None:
    one_of("loop.order", loop.order, ("overlapped", "released"))
    at_least(0, "loop", loop, "learning_starts", "replay_ratio")


def validate_hardware(config) -> None:
    """Raises ConfigError for a device, a precision or a way to run updates that does not exist."""
    validate_device(config.device)
    one_of("precision", config.precision, ("fp32", "tf32", "bf16"))
    one_of("capture", config.capture, ("auto", "off"))


def validate_workers(evaluation) -> None:
    """Raises ConfigError if an evaluation's environments cannot be spread over its processes."""
    within(
        0, evaluation.environments, "evaluation.workers", evaluation.workers, "at most evaluation.environments; 0: none"
    )
    at_least(1, "evaluation", evaluation, "timeout_seconds")


def validate_logger(logger: LoggerConfig) -> None:
    one_of("logger.wandb", logger.wandb, ("off", "offline", "online"))
    require(
        re.fullmatch(r"[^/\\#?%:]{1,128}", logger.project) is not None,
        f"logger.project={logger.project} must have 1 to 128 characters, none of / \\ # ? % :",
    )
    require(len(logger.group) <= 128, f"logger.group={logger.group} must have at most 128 characters")
    for tag in logger.tags:
        require(1 <= len(tag) <= 64, f"logger.tags: {tag!r} must have 1 to 64 characters")
    above(0, "logger", logger, "send_every_seconds", "start_timeout_seconds", "finish_timeout_seconds")
    at_least(0, "logger", logger, "start_spread_seconds")


def validate_device(name: str) -> None:
    require(
        re.fullmatch(r"auto|cpu|cuda(:\d+)?", name) is not None, f"device={name} is not one of auto, cpu, cuda, cuda:N"
    )


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def one_of(key: str, value: str, choices: tuple[str, ...]) -> None:
    require(value in choices, f"{key}={value} is not one of {', '.join(choices)}")


def at_least(minimum: float, section: str, values, *names: str) -> None:
    for key, value in _named(section, values, names):
        require(value >= minimum, f"{key}={value} must be at least {minimum}")


def above(bound: float, section: str, values, *names: str) -> None:
    for key, value in _named(section, values, names):
        require(value > bound, f"{key}={value} must be above {bound}")


def within(low: float, high: float, key: str, value: float, meaning: str) -> None:
    require(low <= value <= high, f"{key}={value} must be in {low}..{high}: {meaning}")


def _named(section: str, values, names: tuple[str, ...]) -> list[tuple[str, float]]:
    return [(f"{section}.{name}" if section else name, getattr(values, name)) for name in names]
