"""Schema of the method and of augmentation. Values live in `configs/`; a field without one is an error.

Nothing here imports torch: a wrong configuration must be refused before the slow imports start.
"""

from dataclasses import dataclass
from importlib.util import find_spec

from harness.config import above, at_least, one_of, require, within
from mlr.cells import hidden_count

EXTRA_AUGMENTATIONS = ("affine", "blur", "resized_crop")


@dataclass
class MaskConfig:
    strategy: str  # cube | spatial (a new grid every step) | temporal (whole frames) | none
    ratio: float  # share that is hidden
    patch_size: int  # pixels
    cube_depth: int  # steps
    rounding: str  # up | down: the number of hidden cells where ratio * cells is no integer
    space: str  # pixel | feature: what is set to 0
    stage: str  # of the encoder, whose features are; read where space is feature


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
    target: str  # latent | pixel: what is predicted of the whole observations
    distance: str  # cosine | mse (of the raw vectors), between latents; pixels always have the latter
    distance_scale: float  # of the cosine distance; 1: 2 - 2 cos, 0.5: 1 - cos
    norm_floor: float  # vectors are divided by max(norm, norm_floor) before it
    projector: bool  # behind the decoder and the momentum encoder
    predictor: bool  # behind the projector
    action_tokens: bool  # whether the decoder sees the actions
    reward_weight: float  # of a reward prediction beside the reconstruction; 0: there is none
    mask: MaskConfig
    decoder: DecoderConfig


@dataclass
class AugmentationConfig:
    crop: str  # resample | slice
    pad: int  # pixels of replication padding before the crop
    intensity: float  # factor is 1 + intensity * clamp(N(0, 1), -intensity_clamp, intensity_clamp)
    intensity_clamp: float
    extra: list[str]  # any of EXTRA_AUGMENTATIONS, in the order given, before the crop


def validate_mlr(mlr: MLRConfig, image_size: int) -> None:
    """Raises ConfigError if the masks or the decoder cannot be built for frames of `image_size` pixels."""
    mask, decoder = mlr.mask, mlr.decoder
    at_least(1, "mlr", mlr, "seq_len")
    at_least(0, "mlr", mlr, "weight", "masked_scale")
    above(0, "mlr", mlr, "norm_floor", "distance_scale")
    within(0, 1, "mlr.tau", mlr.tau, "the weight of the online network")
    one_of("mlr.target", mlr.target, ("latent", "pixel"))
    one_of("mlr.distance", mlr.distance, ("cosine", "mse"))
    at_least(0, "mlr", mlr, "reward_weight")
    require(
        mlr.target == "latent" or (mlr.projector and mlr.predictor),
        "mlr.target=pixel has a linear head in the place of both: leave mlr.projector and mlr.predictor at true",
    )
    one_of("mlr.mask.strategy", mask.strategy, ("cube", "spatial", "temporal", "none"))
    one_of("mlr.mask.space", mask.space, ("pixel", "feature"))
    require(
        mask.strategy != "none" or mask.space == "pixel",
        "mlr.mask.strategy=none hides nothing: leave mlr.mask.space at pixel",
    )
    one_of("mlr.mask.rounding", mask.rounding, ("up", "down"))
    within(0, 1, "mlr.mask.ratio", mask.ratio, "the hidden share")
    within(1, image_size, "mlr.mask.patch_size", mask.patch_size, "at most the side of the image")
    at_least(1, "mlr.mask", mask, "cube_depth")
    require(
        mlr.seq_len % mask.cube_depth == 0,
        f"mlr.seq_len={mlr.seq_len} is not a multiple of mlr.mask.cube_depth={mask.cube_depth}",
    )
    at_least(0, "mlr.decoder", decoder, "depth")
    at_least(1, "mlr.decoder", decoder, "heads")
    above(0, "mlr.decoder", decoder, "mlp_ratio", "norm_eps")


def validate_stage(mask: MaskConfig, image_size: int, map_sides: list[int]) -> None:
    """Raises ConfigError if the features to hide do not exist; `map_sides` are those of the stages conv1, conv2, ..."""
    if mask.space == "pixel":
        return
    sides = {f"conv{number}": side for number, side in enumerate(map_sides, start=1)}
    one_of("mlr.mask.stage", mask.stage, tuple(sides))
    side, grid = sides[mask.stage], image_size // mask.patch_size
    require(
        side >= grid,
        f"mlr.mask.stage={mask.stage} has a map of {side} x {side}, too small for {grid} x {grid} cells: "
        f"choose an earlier stage, or mlr.mask.patch_size above {mask.patch_size}",
    )


def require_hidden(mlr: MLRConfig, image_size: int) -> None:
    """Raises ConfigError for a mask that is to hide a share of the cells, and hides none."""
    mask = mlr.mask
    cells = mlr.seq_len if mask.strategy == "temporal" else (image_size // mask.patch_size) ** 2
    require(
        mask.ratio == 0 or mask.strategy == "none" or hidden_count(cells, mask.ratio, mask.rounding) > 0,
        f"mlr.mask.ratio={mask.ratio} of {cells} cells hides none: lower mlr.mask.patch_size or raise the ratio",
    )


def validate_augmentation(augmentation: AugmentationConfig, image_size: int) -> None:
    one_of("augmentation.crop", augmentation.crop, ("resample", "slice"))
    within(0, image_size, "augmentation.pad", augmentation.pad, "at most the side of the image")
    at_least(0, "augmentation", augmentation, "intensity", "intensity_clamp")
    for name in augmentation.extra:
        one_of("augmentation.extra", name, EXTRA_AUGMENTATIONS)
    if augmentation.extra:
        require(
            find_spec("kornia") is not None,
            f"augmentation.extra={augmentation.extra} needs kornia: pip install -e '.[augment]'",
        )
    reach = augmentation.intensity * augmentation.intensity_clamp
    require(reach < 1, f"augmentation.intensity times intensity_clamp is {reach}: a factor must stay above 0")
