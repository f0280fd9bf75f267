"""Schema of configs/sweep.yaml: where the runs of a sweep go."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from harness.config import STRICT, ConfigError, matching, one_of, require
from harness.files import CONFIGS
from harness.overrides import check_override, explain, parse, require_finite, schema_keys, validated


@dataclass(config=STRICT)
class SlurmConfig:
    folder: str
    partition: str
    minutes: PositiveInt
    warning_seconds: NonNegativeInt
    requeues: NonNegativeInt
    gpus: NonNegativeInt
    cpus: PositiveInt
    memory_gb: PositiveFloat
    runs_per_job: PositiveInt
    jobs_at_once: PositiveInt
    options: dict[str, Any]


@dataclass(config=STRICT)
class RayConfig:
    address: str
    cpus: NonNegativeFloat
    gpus: NonNegativeFloat


@dataclass(config=STRICT)
class SweepConfig:
    launcher: Annotated[str, one_of("local", "slurm", "ray")]
    parallel: NonNegativeInt
    gpus: Annotated[str, matching(r"([^,]+(,[^,]+)*)?", "must be numbers with commas between")]
    runs_per_gpu: PositiveInt
    attempts: PositiveInt
    slurm: SlurmConfig
    ray: RayConfig


def is_own(key: str) -> bool:
    """Tells whether `key` belongs to the sweep itself, not to its runs."""
    return key in schema_keys(SweepConfig) or key.startswith(("slurm.", "ray."))


def read_sweep_config(settings: Sequence[str]) -> SweepConfig:
    """configs/sweep.yaml with `settings`, each key=value, on top. Raises ConfigError."""
    from omegaconf import OmegaConf

    kinds = schema_keys(SweepConfig)
    for setting in settings:
        check_override(setting, {}, set(), kinds, {})
    given = OmegaConf.create()
    try:
        for setting in settings:  # by Hydra's grammar: YAML reads 1:30:00 as 5400 and 0123 as 83
            parsed = parse(setting)
            value = setting.partition("=")[2] if parsed.is_sweep_override() else parsed.value()
            OmegaConf.update(given, parsed.key_or_group, value)
        merged = OmegaConf.merge(
            OmegaConf.structured(SweepConfig),
            OmegaConf.load(CONFIGS / "sweep.yaml"),
            given,
        )
        values = OmegaConf.to_container(merged, resolve=True)
    except Exception as error:  # OmegaConf and its parser have no common class for wrong input
        raise ConfigError(explain(error, kinds, {})) from error
    require_finite(values)
    config = validated(SweepConfig, values)
    require(
        config.slurm.warning_seconds < 60 * config.slurm.minutes,
        f"slurm.warning_seconds={config.slurm.warning_seconds} must be less than the slurm.minutes of a job",
    )
    return config
