"""Schema of the method and of augmentation. Values live in `configs/`; a field without one is an error.

Nothing here imports torch: a wrong configuration must be refused before the slow imports start.
"""

from dataclasses import replace
from importlib.util import find_spec
from typing import Annotated, Any

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from harness.config import STRICT, HostFacts, Share, one_of, require
from harness.files import installation
from mlr.cells import cells_of_block, hidden_count

EXTRA_AUGMENTATIONS = ("affine", "blur", "resized_crop")


@dataclass(config=STRICT)
class MaskConfig:
    strategy: Annotated[str, one_of("cube", "spatial", "temporal", "none")]  # spatial: a new grid every step
    ratio: Share  # hidden share of the cells
    patch_size: PositiveInt  # pixels
    cube_depth: PositiveInt  # steps
    rounding: Annotated[str, one_of("up", "down")]  # number of hidden cells where ratio * cells is no integer
    space: Annotated[str, one_of("pixel", "feature")]  # space in which hidden values are set to 0
    stage: str  # encoder stage whose features are hidden; read where space is feature


@dataclass(config=STRICT)
class DecoderConfig:
    depth: NonNegativeInt  # transformer blocks
    heads: PositiveInt
    mlp_ratio: PositiveFloat
    qkv_bias: bool
    norm_eps: PositiveFloat
    width: NonNegativeInt  # width between linear maps from the latent and back; 0: the latent's, without these maps


@dataclass(config=STRICT)
class MLRConfig:
    seq_len: PositiveInt  # K, observations in a clip
    weight: NonNegativeFloat  # lambda
    weight_by_task: dict[str, NonNegativeFloat]  # task -> weight, read unless `weight` is set
    sequences: NonNegativeInt  # number of sequences of a batch that the loss reads, the first ones; 0: all
    tau: Share  # weight of the online network in a momentum update
    masked_scale: NonNegativeFloat  # factor on the masked branch's pixels, F1 in docs/fidelity.md
    target: Annotated[str, one_of("latent", "pixel")]  # predicted form of the whole observations
    distance: Annotated[str, one_of("cosine", "mse")]  # between latents; mse of the raw vectors. Pixels have mse
    distance_scale: PositiveFloat  # factor of the cosine distance; 1: 2 - 2 cos, 0.5: 1 - cos
    norm_floor: PositiveFloat  # vectors are divided by max(norm, norm_floor) before the cosine distance
    projector: bool  # applied after the decoder and the momentum encoder
    predictor: bool  # applied after the projector
    action_tokens: bool  # decoder sees the actions
    reward_weight: NonNegativeFloat  # factor of a reward loss, added to the reconstruction's; 0: no reward prediction
    mask: MaskConfig
    decoder: DecoderConfig

    def check(self, facts: HostFacts) -> None:
        """Raises ConfigError if masks or decoder cannot be built for this agent."""
        mask, heads, width = self.mask, self.decoder.heads, self.decoder.width or facts.latent_dim
        for task in self.weight_by_task:
            facts.require_task(task)
        require(
            self.seq_len <= facts.window,
            f"mlr.seq_len={self.seq_len} is longer than replay.window={facts.window}: set replay.window, "
            "which mlr.seq_len follows",
        )
        require(
            self.target == "latent" or (self.projector and self.predictor),
            "mlr.target=pixel has a linear head in the place of both: leave mlr.projector and mlr.predictor at true",
        )
        require(
            width % heads == 0 and width % 2 == 0,
            f"the {'decoder' if self.decoder.width else 'latent'} has {width} values: it must be even, and a multiple "
            f"of mlr.decoder.heads={heads}",
        )
        require(
            self.sequences == 0 or (facts.discrete and self.sequences <= facts.batch_size),
            f"mlr.sequences={self.sequences} must be at most agent.batch_size={facts.batch_size}"
            if facts.discrete
            else "mlr.sequences is of Rainbow's joint batch: leave it at 0 and set aux_optimizer.batch_size",
        )
        require(
            mask.strategy != "none" or mask.space == "pixel",
            "mlr.mask.strategy=none hides nothing: leave mlr.mask.space at pixel",
        )
        require(
            mask.patch_size <= facts.image_size,
            f"mlr.mask.patch_size={mask.patch_size} must be at most {facts.image_size}, the side of the image",
        )
        require(
            mask.strategy != "cube" or self.seq_len % mask.cube_depth == 0,
            f"mlr.seq_len={self.seq_len} is not a multiple of mlr.mask.cube_depth={mask.cube_depth}",
        )
        cells = cells_of_block(mask, self.seq_len, facts.image_size)
        require(
            mask.ratio == 0 or mask.strategy == "none" or hidden_count(cells, mask.ratio, mask.rounding) > 0,
            f"mlr.mask.ratio={mask.ratio} of {cells} cells hides none: lower mlr.mask.patch_size or raise the ratio",
        )
        if mask.space == "feature":
            _check_stage(mask, facts)


@dataclass(config=STRICT)
class AugmentationConfig:
    crop: Annotated[str, one_of("resample", "slice")]
    pad: NonNegativeInt  # pixels of replication padding before the crop
    intensity: NonNegativeFloat  # factor is 1 + intensity * clamp(N(0, 1), -intensity_clamp, intensity_clamp)
    intensity_clamp: NonNegativeFloat
    extra: list[Annotated[str, one_of(*EXTRA_AUGMENTATIONS)]]  # in the order given, before the crop

    def check(self, image_size: int) -> None:
        """Raises ConfigError for an augmentation that does not fit the images or needs what is not installed."""
        require(self.pad <= image_size, f"augmentation.pad={self.pad} must be at most {image_size}, the image's side")
        reach = self.intensity * self.intensity_clamp
        require(reach < 1, f"augmentation.intensity times intensity_clamp is {reach}: a factor must stay above 0")
        require(
            not self.extra or find_spec("kornia") is not None,
            f"augmentation.extra={self.extra} needs kornia: {installation('augment')}",
        )


def without_extra(config: Any) -> Any:
    """The configuration of a run without kornia's augmentations, which draw on the host."""
    if config.augmentation is None:
        return config
    return replace(config, augmentation=replace(config.augmentation, extra=[]))


def _check_stage(mask: MaskConfig, facts: HostFacts) -> None:
    """Raises ConfigError if the features to hide do not exist."""
    sides = {f"conv{number}": side for number, side in enumerate(facts.map_sides, start=1)}
    require(mask.stage in sides, f"mlr.mask.stage={mask.stage} is not one of {', '.join(sides)}")
    side, grid = sides[mask.stage], facts.image_size // mask.patch_size
    require(
        side >= grid,
        f"mlr.mask.stage={mask.stage} has a map of {side} x {side}, too small for {grid} x {grid} cells: "
        f"choose an earlier stage, or mlr.mask.patch_size above {mask.patch_size}",
    )
