"""Masks, transformer block, positions and crops against the DMControl reference files a, b, c, i and i2."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from harness.config import ConfigError
from mlr.augmentation import RandomCrop, intensity_factor
from mlr.cells import hidden_count
from mlr.config import DecoderConfig, MaskConfig, MLRConfig, validate_mlr
from mlr.decoder import TransformerBlock, sine_positions
from mlr.masking import enlarge, sample_mask
from tests.golden.check import Check, exact, relative

TOLERANCE = 1e-5
NORM_EPS = 1e-5
LAYERS = {"mlp0": "fc1", "mlp1": "fc2"}  # the files' names where ours differ


def replay_a(folder: Path) -> Iterator[Check]:
    """Hidden cells per block, their enlargement, and the clips that are no multiple of the block."""
    for path in sorted(Path(folder).glob("a_*.npz")):
        data = dict(np.load(path))
        for name in sorted(key.removesuffix("/cells") for key in data if key.endswith("/cells")):
            image, patch, clip, depth, ratio = (float(part.replace("p", ".")) for part in name.split("_")[1:])
            config = MaskConfig("cube", ratio, int(patch), int(depth), "down", "pixel", "conv1")
            image, clip = int(image), int(clip)
            if clip % config.cube_depth:
                yield exact(path.name, f"{name} refused", _refused(config, clip, image), True)
                continue
            yield exact(path.name, f"{name} refused", _refused(config, clip, image), False)
            yield from _mask_checks(path.name, name, data, config, clip, image)


def _mask_checks(
    file: str, name: str, data: dict[str, np.ndarray], config: MaskConfig, clip: int, image: int
) -> Iterator[Check]:
    cells = torch.from_numpy(data[f"{name}/cells"]).bool()
    counts = cells.flatten(1).sum(dim=1)
    yield exact(
        file, f"{name} count", np.full(len(cells), hidden_count(cells[0].numel(), config.ratio, "down")), counts
    )

    drawn = sample_mask(config, clip, image, torch.Generator().manual_seed(0), "cpu")
    yield exact(file, f"{name} drawn shape", drawn.shape, (1, clip, *cells.shape[1:]))
    drawn_counts = drawn[0, :: config.cube_depth].flatten(1).sum(dim=1)
    yield exact(file, f"{name} drawn count", drawn_counts, counts)

    pixels = enlarge(cells.repeat_interleave(config.cube_depth, dim=0), image)[:, None]
    yield exact(file, f"{name} pixels' shape", pixels.shape, data[f"{name}/shape"])
    yield relative(file, f"{name} fraction", pixels.double().mean(), data[f"{name}/fraction"], 1e-6)
    if f"{name}/full" in data:
        yield exact(file, f"{name} pixels", pixels, data[f"{name}/full"])


def _refused(mask: MaskConfig, seq_len: int, image: int) -> bool:
    decoder = DecoderConfig(depth=2, heads=1, mlp_ratio=2.0, qkv_bias=False, norm_eps=NORM_EPS)
    config = MLRConfig(
        seq_len,
        weight=1.0,
        tau=0.05,
        masked_scale=1.0,
        target="latent",
        distance="cosine",
        distance_scale=1.0,
        norm_floor=1e-3,
        projector=True,
        predictor=True,
        action_tokens=True,
        reward_weight=0.0,
        mask=mask,
        decoder=decoder,
    )
    try:
        validate_mlr(config, image)
    except ConfigError:
        return True
    return False


def replay_b(folder: Path) -> Iterator[Check]:
    """One transformer block: output, attention branch, gradients, and the output in float64."""
    for path in sorted(Path(folder).glob("b_*.npz")):
        data = dict(np.load(path))
        file, block = path.name, _block(data)
        tokens = torch.from_numpy(data["input"]).requires_grad_()
        output = block(tokens)
        yield relative(file, "output", output.detach(), data["output"], TOLERANCE)
        branch = block.attention(block.project(tokens))
        yield relative(file, "attention branch", branch.detach(), data["attention_branch_output"], TOLERANCE)

        loss = output.square().sum()
        loss.backward()
        yield relative(file, "loss", loss.detach(), data["loss_sum_sq"], TOLERANCE)
        yield relative(file, "grad_input", tokens.grad, data["grad_input"], TOLERANCE)
        gradients = {name: parameter.grad for name, parameter in block.named_parameters()}
        for name, expected in _renamed(data, "grad/").items():
            yield relative(file, f"grad {name}", gradients.pop(name), expected, TOLERANCE)
        yield exact(file, "parameters without a reference gradient", len(gradients), 0)

        double = block.double()(tokens.detach().double())
        yield relative(file, "output in float64", double.detach(), data["output_float64"], 1e-12)


def _block(data: dict[str, np.ndarray]) -> TransformerBlock:
    weights = {name: torch.from_numpy(value) for name, value in _renamed(data, "weights/").items()}
    hidden, dim = weights["fc1.weight"].shape
    config = DecoderConfig(depth=1, heads=1, mlp_ratio=hidden / dim, qkv_bias="qkv.bias" in weights, norm_eps=NORM_EPS)
    block = TransformerBlock(dim, config)
    block.load_state_dict(weights)
    return block


def _renamed(data: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Arrays below `prefix` under our parameter names."""
    renamed = {}
    for key, value in data.items():
        if key.startswith(prefix):
            layer, kind = key.removeprefix(prefix).split("/")
            renamed[f"{LAYERS.get(layer, layer)}.{kind}"] = value
    return renamed


def replay_c(folder: Path) -> Iterator[Check]:
    """Position tables."""
    for path in sorted(Path(folder).glob("c_*.npz")):
        for key, table in np.load(path).items():
            dim, length = map(int, re.fullmatch(r"table_d(\d+)_len(\d+)", key).groups())
            yield relative(path.name, key, sine_positions(length, dim), table, TOLERANCE)


def replay_i(folder: Path) -> Iterator[Check]:
    """The sliced crop (file i), its statistics, and the resampled crop (file i2)."""
    for path in sorted(Path(folder).glob("i_*.npz")):
        data = dict(np.load(path))
        yield exact(path.name, "small_output", _crop_small(data, "slice"), data["small_output"])
        yield from _statistics(path.name, data)
    for path in sorted(Path(folder).glob("i2_*.npz")):
        data = dict(np.load(path))
        yield relative(path.name, "small_output", _crop_small(data, "resample"), data["small_output"], TOLERANCE)


def _crop_small(data: dict[str, np.ndarray], mode: str) -> torch.Tensor:
    images = torch.from_numpy(data["small_input"])
    offsets = torch.from_numpy(np.stack([data["small_col_offset"], data["small_row_offset"]], axis=1))
    return RandomCrop(images.shape[-1], data["small_output"].shape[-1], 0, mode)(images, offsets)


def _statistics(file: str, data: dict[str, np.ndarray]) -> Iterator[Check]:
    """Our draws against the counted ones of the clips' crop, and against the intensity's moments."""
    generator, draws = torch.Generator().manual_seed(0), 200_000
    for key, column in (("row", 1), ("col", 0)):
        expected = next(value for name, value in data.items() if name.startswith(f"aux_crop_{key}_counts"))
        crop = RandomCrop(len(expected), 1, 0, "slice")  # any sizes that leave as many offsets
        counts = torch.bincount(crop.draw(draws, generator, "cpu")[:, column], minlength=len(expected))
        yield exact(file, f"{key} offsets that occur", counts > 0, expected > 0)
        deviation = float(np.sqrt(len(expected) / expected.sum()))  # of one count in the smaller sample, relative
        yield relative(file, f"{key} frequencies", counts / draws, expected / expected.sum(), 5 * deviation)
    factor = intensity_factor(draws, 0.05, 2.0, generator, "cpu")
    moments = torch.stack([factor.mean(), factor.std(), factor.min(), factor.max()])
    yield relative(file, "intensity moments", moments, data["intensity_mean_std_min_max"], 1e-3)
