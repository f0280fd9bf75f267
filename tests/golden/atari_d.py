"""Replays d (the MLR loss without augmentation) of a folder of reference files, on the real objective.

`T` time, `B` batch, `C, H, W` image, `D` latent, `P` projection. Reference rows are batch-major: row = b * T + t.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mlr.augmentation import RandomCrop
from mlr.config import DecoderConfig, MaskConfig, MLRConfig
from mlr.decoder import Decoder
from mlr.fast_decoder import Chosen
from mlr.masking import hide
from mlr.objective import MLR
from tests.golden.atari_weights import ReferenceModel, load_model
from tests.golden.check import Arrays, Check, by_case, exact, load, named, relative, setting
from tests.golden.views import Views, recorded_views

TOLERANCE, SUM_TOLERANCE = 1e-5, 2e-5
RELEASED_SCALE = 255.0  # the masked branch in 0..255; 1: divided by 255 like the others
NORM_FLOOR = 1e-3
PAD = 4


@dataclass
class Clip:
    frames: Tensor  # uint8 [T, B, C, H, W]
    actions: Tensor  # int64 [T, B]


@dataclass
class Trace:
    """Values that passed through the modules in one call of the loss."""

    decoder_inputs: list[tuple] = field(default_factory=list)  # states [B, T, D] and chosen actions
    decoded: list[Tensor] = field(default_factory=list)  # [B, T, D]
    projection: list[Tensor] = field(default_factory=list)  # [T, B, P]
    prediction: list[Tensor] = field(default_factory=list)  # [T, B, P]
    target: list[Tensor] = field(default_factory=list)  # [T, B, P]
    masked_pixels: list[Tensor] = field(default_factory=list)  # [T * B, C, H, W]


def replay_d(folder: Path) -> Iterator[Check]:
    """Tokens, blocks, projections, targets, losses and gradients of every variant in the file, and the RL output."""
    for path in sorted(folder.glob("d_*.npz")):
        arrays = load(path)
        for case, own in by_case(arrays, "loss_tb").items():
            yield from named(case, variant_checks(path.name, own, masked_scale(case, own), load_model(path)))


def masked_scale(case: str, arrays: Arrays) -> float:
    """The factor on the masked branch that comes nearest to what the variant's largest input was."""
    if "masked_input_max" not in arrays:
        return 1.0 if "div" in case else RELEASED_SCALE
    clip = make_clip(arrays)
    masked = augmentation(arrays, clip.frames.shape[-1], "masked")(hide(clip.frames, hidden_cells(arrays["mask"])))
    largest = float(masked.max()) / 255
    return min((RELEASED_SCALE, 1.0), key=lambda scale: abs(scale * largest - arrays["masked_input_max"]))


def augmentation(arrays: Arrays, size: int, *whose: str) -> Views:
    """The recorded augmentation, a shift that resamples; without one the images stay as they are."""
    return recorded_views(arrays, (*whose, "clip"), shift(arrays, size), None, batch_major=True)


def shift(arrays: Arrays, size: int) -> RandomCrop:
    return RandomCrop(size, size, int(setting(arrays, "pad", PAD)), "resample")


def variant_checks(file: str, arrays: Arrays, scale: float, model: ReferenceModel) -> Iterator[Check]:
    clip, hidden = make_clip(arrays), hidden_cells(arrays["mask"])
    masked, target = (augmentation(arrays, clip.frames.shape[-1], whose) for whose in ("masked", "target"))
    mlr = make_mlr(model, hidden, scale, masked, target)
    trace = record(mlr)
    loss = mlr.loss(clip, mlr.draw(clip.frames), slice(None))["loss"]
    loss.mean().backward()
    yield relative(file, "loss_tb", loss.detach(), arrays["loss_tb"], TOLERANCE)
    yield relative(file, "loss_mean", loss.mean().item(), arrays["loss_mean"], TOLERANCE)
    yield from activation_checks(file, arrays, mlr, trace)
    yield from gradient_checks(file, arrays, model)
    yield from value_checks(file, arrays, clip, model)


def activation_checks(file: str, arrays: Arrays, mlr: MLR, trace: Trace) -> Iterator[Check]:
    tokens, *blocks = plain_tokens(mlr.owned["decoder"], *trace.decoder_inputs[0])
    recorded = {
        "tokens_in": tokens,
        "proj_pred": batch_major(trace.projection[0]),
        "pred": batch_major(trace.prediction[0]),
        "target": batch_major(trace.target[0]),
        "masked_input_max": trace.masked_pixels[0].max() / 255,  # the encoder divides
    }
    for index, output in enumerate(blocks):
        expected = arrays.get(f"after_block{index}")
        if expected is None:
            continue
        if index == len(blocks) - 1:
            states = expected[:, : trace.decoded[0].shape[1]]
            yield relative(file, f"after_block{index} (state tokens)", trace.decoded[0], states, TOLERANCE)
        yield relative(file, f"after_block{index}", output, expected, TOLERANCE)
    for name, values in recorded.items():
        if name in arrays:
            yield relative(file, name, values, arrays[name], TOLERANCE)


def gradient_checks(file: str, arrays: Arrays, model: ReferenceModel) -> Iterator[Check]:
    for name in [name for name in arrays if name.startswith("grad.")]:
        gradient = model.parameters[name.removeprefix("grad.")].grad
        yield relative(file, name, gradient, arrays[name], TOLERANCE)
    if "grad_sum_l2" in arrays:
        sums = model.gradient_sum_l2(arrays["grad_names"])
        yield relative(file, "grad_sum_l2", sums, arrays["grad_sum_l2"], SUM_TOLERANCE)
    for name, prefixes in (("stem", ("conv", "head.")), ("conv", ("conv",)), ("transformer", ("blk",))):
        if f"{name}_grad_norm" not in arrays:
            continue
        norm = model.gradient_norm(*prefixes)
        yield relative(file, f"{name}_grad_norm", norm, arrays[f"{name}_grad_norm"], SUM_TOLERANCE)
    if "no_grad_names" in arrays:
        without = [name for name in map(str, arrays["grad_names"]) if model.gradient(name) is None]
        yield exact(file, "no_grad_names", sorted(without), sorted(arrays["no_grad_names"]))


def value_checks(file: str, arrays: Arrays, clip: Clip, model: ReferenceModel) -> Iterator[Check]:
    if "logp" in arrays:
        with torch.no_grad():
            pixels = recorded_views(arrays, ("obs",), shift(arrays, clip.frames.shape[-1]), None, batch_major=True)(
                clip.frames[0]
            )
            noise = model.noise[int(setting(arrays, "noise", 1))]
            log_probs = model.head(model.encoder(pixels), noise).log_softmax(-1)
        yield relative(file, "logp", log_probs, arrays["logp"], TOLERANCE)


def make_clip(arrays: Arrays) -> Clip:
    """The first T observations with the actions taken at them; the file's actions come before the observation."""
    steps = len(arrays["mask"])
    obs = torch.from_numpy(arrays["obs"][:steps]).flatten(2, 3)  # stack and channel are one axis here
    return Clip(frames=obs, actions=torch.from_numpy(arrays["all_action"][1 : steps + 1]))


def hidden_cells(mask: np.ndarray) -> Tensor:
    """Turns pixels [T, 1, H, W], 1 = kept, into bool [1, T, g, g], True = hidden, with the largest cells that fit."""
    size = mask.shape[-1]
    rows = np.flatnonzero((np.diff(mask, axis=-2) != 0).any(axis=(0, 1, 3))) + 1
    columns = np.flatnonzero((np.diff(mask, axis=-1) != 0).any(axis=(0, 1, 2))) + 1
    patch = int(np.gcd.reduce(np.concatenate(([size], rows, columns))))
    return torch.from_numpy(mask[:, 0, ::patch, ::patch] == 0)[None]


def make_mlr(model: ReferenceModel, hidden: Tensor, masked_scale: float, masked: Views, target: Views) -> MLR:
    """The objective around the reference model, with a fixed mask [1, T, g, g] and recorded views."""
    seq_len = hidden.shape[1]
    mlr = MLR(
        mlr_config(model.decoder_config, seq_len, masked_scale),
        encoder=model.encoder,
        projector=model.projector,
        action_embedding=model.action_embedding,
        predictor=model.predictor,
        latent_dim=model.encoder.latent_dim,
        mask=lambda: hidden,
        augment_masked=masked,
        augment_target=target,
    )
    model.fill_blocks(mlr.owned["decoder"].blocks)
    return mlr


def mlr_config(decoder: DecoderConfig, seq_len: int, masked_scale: float) -> MLRConfig:
    """The reference's objective. The masks come ready-made, so that the section `mask` decides nothing."""
    return MLRConfig(
        seq_len=seq_len,
        weight=1.0,
        weight_by_task={},
        sequences=0,
        tau=1.0,
        masked_scale=masked_scale,
        target="latent",
        distance="cosine",
        distance_scale=1.0,
        norm_floor=NORM_FLOOR,
        projector=True,
        predictor=True,
        action_tokens=True,
        reward_weight=0.0,
        mask=MaskConfig("cube", 0.5, patch_size=1, cube_depth=1, rounding="up", space="pixel", stage="conv1"),
        decoder=decoder,
    )


def record(mlr: MLR) -> Trace:
    """Returns a trace that the next call of the loss fills."""
    trace = Trace()
    mlr.owned["decoder"].register_forward_pre_hook(lambda module, inputs: trace.decoder_inputs.append(inputs))
    append_output(mlr.owned["decoder"], trace.decoded)
    append_output(mlr.projector, trace.projection)
    append_output(mlr.owned["predictor"], trace.prediction)
    append_output(mlr.targets["projector"], trace.target)
    mlr.encoder.register_forward_pre_hook(lambda module, inputs: trace.masked_pixels.append(inputs[0].detach()))
    return trace


@torch.no_grad()
def plain_tokens(decoder: Decoder, states: Tensor, actions: Tensor | Chosen) -> Iterator[Tensor]:
    """The tokens [B, 2T, D] before the first block and after each, as the plain decoder computes them."""
    tokens = decoder.tokens(states, actions.embedded() if isinstance(actions, Chosen) else actions)
    yield tokens
    for block in decoder.blocks:
        tokens = block(tokens)
        yield tokens


def append_output(module: torch.nn.Module, outputs: list[Tensor]) -> None:
    module.register_forward_hook(lambda module, inputs, output: outputs.append(output.detach()))


def batch_major(values: Tensor) -> Tensor:
    """[T, B, P] -> [B * T, P], row = b * T + t."""
    return values.transpose(0, 1).flatten(0, 1)
