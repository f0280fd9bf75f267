"""Schema of configs/sweep.yaml: where the runs of a sweep go."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.command_line import CONFIGS, check_override, explain, require_finite, schema_keys
from harness.config import ConfigError, at_least, one_of, require

LAUNCHERS = ("local", "slurm", "ray")


@dataclass
class SlurmConfig:
    folder: str
    partition: str
    minutes: int
    warning_seconds: int
    requeues: int
    gpus: int
    cpus: int
    memory_gb: float
    runs_per_job: int
    jobs_at_once: int
    options: dict[str, Any]


@dataclass
class RayConfig:
    address: str
    cpus: float
    gpus: float


@dataclass
class SweepConfig:
    launcher: str
    parallel: int
    gpus: str
    runs_per_gpu: int
    attempts: int
    slurm: SlurmConfig
    ray: RayConfig


def is_own(key: str) -> bool:
    """Whether `key` is one of the sweep itself, not one of its runs."""
    return key in schema_keys(SweepConfig) or key.startswith(("slurm.", "ray."))


def read_sweep_config(settings: Sequence[str]) -> SweepConfig:
    """configs/sweep.yaml with `settings`, each key=value, on top. Raises ConfigError."""
    from omegaconf import OmegaConf

    kinds = schema_keys(SweepConfig)
    for setting in settings:
        check_override(setting, {}, set(), kinds, {})
    try:
        merged = OmegaConf.merge(
            OmegaConf.structured(SweepConfig),
            OmegaConf.load(CONFIGS / "sweep.yaml"),
            OmegaConf.from_dotlist(list(settings)),
        )
        config = OmegaConf.to_object(merged)
    except Exception as error:  # OmegaConf and its parser have no common class for wrong input
        raise ConfigError(explain(error, kinds, {})) from error
    require_finite(OmegaConf.to_container(merged))
    validate(config)
    return config


def validate(config: SweepConfig) -> None:
    one_of("launcher", config.launcher, LAUNCHERS)
    at_least(0, "", config, "parallel")
    at_least(1, "", config, "runs_per_gpu", "attempts")
    require(all(config.gpus.split(",")) or not config.gpus, f"gpus={config.gpus} must be numbers with commas between")
    at_least(0, "ray", config.ray, "cpus", "gpus")
    at_least(0, "slurm", config.slurm, "gpus", "requeues", "warning_seconds")
    at_least(1, "slurm", config.slurm, "minutes", "cpus", "runs_per_job", "jobs_at_once")
    require(config.slurm.memory_gb > 0, f"slurm.memory_gb={config.slurm.memory_gb} must be above 0")
    require(
        config.slurm.warning_seconds < 60 * config.slurm.minutes,
        f"slurm.warning_seconds={config.slurm.warning_seconds} must be less than the slurm.minutes of a job",
    )
