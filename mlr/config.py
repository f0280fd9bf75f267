"""Schema of what both benchmarks share. Values live in `configs/`; a field without one is an error.

Nothing here imports torch: a wrong configuration must be refused before the slow imports start.
"""

from dataclasses import dataclass


class ConfigError(ValueError):
    """A configuration that cannot run. The message is one line that says what to do."""


@dataclass
class MaskConfig:
    strategy: str  # cube | spatial (a new grid every step) | temporal (whole frames)
    ratio: float  # share that is hidden
    patch_size: int  # pixels
    cube_depth: int  # steps
    rounding: str  # up | down: the number of hidden cells where ratio * cells is no integer


@dataclass
class DecoderConfig:
    depth: int  # transformer blocks
    heads: int
    mlp_ratio: float
    qkv_bias: bool
    norm_eps: float


@dataclass
class MLRConfig:
    seq_len: int  # K, observations in a clip
    weight: float  # lambda
    tau: float  # weight of the online network in a momentum update
    masked_scale: float  # factor on the masked branch's pixels, F1 in docs/fidelity.md
    distance_scale: float  # 1: 2 - 2 cos, 0.5: 1 - cos
    norm_floor: float  # vectors are divided by max(norm, norm_floor)
    mask: MaskConfig
    decoder: DecoderConfig


@dataclass
class AugmentationConfig:
    crop: str  # resample | slice
    pad: int  # pixels of replication padding before the crop
    intensity: float  # factor is 1 + intensity * clamp(N(0, 1), -2, 2)


@dataclass
class LoopConfig:
    order: str  # overlapped | released
    learning_starts: int  # agent steps before the iteration of the first update
    replay_ratio: float  # updates per agent step


def validate_mlr(mlr: MLRConfig, image_size: int) -> None:
    """Raises ConfigError if the masks or the decoder cannot be built for frames of `image_size` pixels."""
    mask = mlr.mask
    require(mlr.seq_len >= 1, f"mlr.seq_len={mlr.seq_len} must be at least 1")
    one_of("mlr.mask.strategy", mask.strategy, ("cube", "spatial", "temporal"))
    one_of("mlr.mask.rounding", mask.rounding, ("up", "down"))
    require(0 <= mask.ratio <= 1, f"mlr.mask.ratio={mask.ratio} is the hidden share: choose it in 0..1")
    require(
        1 <= mask.patch_size <= image_size,
        f"mlr.mask.patch_size={mask.patch_size} must be in 1..{image_size}, the side of the image",
    )
    require(
        mask.cube_depth >= 1 and mlr.seq_len % mask.cube_depth == 0,
        f"mlr.seq_len={mlr.seq_len} is not a multiple of mlr.mask.cube_depth={mask.cube_depth}",
    )
    require(0 <= mlr.tau <= 1, f"mlr.tau={mlr.tau} is the weight of the online network: choose it in 0..1")
    require(mlr.norm_floor > 0, f"mlr.norm_floor={mlr.norm_floor} must be positive")
    require(mlr.decoder.depth >= 0, f"mlr.decoder.depth={mlr.decoder.depth} must not be negative")
    require(mlr.decoder.heads >= 1, f"mlr.decoder.heads={mlr.decoder.heads} must be at least 1")


def validate_augmentation(augmentation: AugmentationConfig) -> None:
    one_of("augmentation.crop", augmentation.crop, ("resample", "slice"))
    require(augmentation.pad >= 0, f"augmentation.pad={augmentation.pad} must not be negative")


def validate_loop(loop: LoopConfig) -> None:
    one_of("loop.order", loop.order, ("overlapped", "released"))
    require(loop.learning_starts >= 0, f"loop.learning_starts={loop.learning_starts} must not be negative")
    require(loop.replay_ratio >= 0, f"loop.replay_ratio={loop.replay_ratio} must not be negative")


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def one_of(key: str, value: str, choices: tuple[str, ...]) -> None:
    require(value in choices, f"{key}={value} is not one of {', '.join(choices)}")
