"""Masks, transformer block, positions and crops against the DMControl reference files a, b, c, i and i2."""

import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from harness.config import ConfigError, HostFacts, any_task
from mlr.augmentation import RandomCrop, intensity_factor
from mlr.cells import hidden_count
from mlr.config import DecoderConfig, MaskConfig, MLRConfig
from mlr.decoder import TransformerBlock, sine_positions
from mlr.masking import enlarge, sample_mask
from tests.golden.check import Arrays, Check, by_case, cases, exact, is_setting, load, named, relative, setting
from tests.golden.views import INTENSITY, INTENSITY_CLAMP

TOLERANCE = 1e-5
NORM_EPS = 1e-5
LAYERS = {"mlp0": "fc1", "mlp1": "fc2"}  # the files' names where ours differ


def replay_a(folder: Path) -> Iterator[Check]:
    """Hidden cells per block, their enlargement, and the clips that are no multiple of the block."""
    for path in sorted(Path(folder).glob("a_*.npz")):
        data = load(path)
        for case in cases(data, "cells"):
            name = case.rstrip("/")
            image, patch, clip, depth, ratio = _mask_sizes(name, data)
            config = MaskConfig("cube", ratio, int(patch), int(depth), "down", "pixel", "conv1")
            image, clip = int(image), int(clip)
            if clip % config.cube_depth:
                yield exact(path.name, f"{name} refused", _refused(config, clip, image), True)
                continue
            yield exact(path.name, f"{name} refused", _refused(config, clip, image), False)
            yield from _mask_checks(path.name, name, data, config, clip, image)


def _mask_sizes(name: str, data: Arrays) -> list[float]:
    """Image, patch, clip, block and ratio, as the name or the case's settings tell them."""
    numbers = [part.replace("p", ".") for part in name.split("_") if re.fullmatch(r"\d+(p\d+)?", part)]
    names = ("image", "patch", "clip", "block", "ratio")
    if len(numbers) == len(names):
        return [float(number) for number in numbers]
    sizes = [setting(data, size, case=f"{name}/") for size in names]
    assert None not in sizes, f"{name}: neither its name nor size/... has {', '.join(names)}"
    return sizes


def _mask_checks(file: str, name: str, data: Arrays, config: MaskConfig, clip: int, image: int) -> Iterator[Check]:
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
    """Says if the settings are refused for a clip that is no multiple of the block."""
    decoder = DecoderConfig(depth=2, heads=1, mlp_ratio=2.0, qkv_bias=False, norm_eps=NORM_EPS, width=0)
    config = MLRConfig(
        seq_len,
        weight=1.0,
        weight_by_task={},
        sequences=0,
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
    facts = HostFacts(
        image,
        latent_dim=2,
        latent_shape=(2,),
        map_sides=[],
        map_channels=[],
        batch_size=1,
        window=seq_len,
        action_repeat=1,
        discrete=False,
        require_task=any_task,
    )
    try:
        config.check(facts)
    except ConfigError as error:
        return "is not a multiple" in str(error)
    return False


def replay_b(folder: Path) -> Iterator[Check]:
    """Transformer blocks: output, attention branch, gradients, and the output in float64."""
    for path in sorted(Path(folder).glob("b_*.npz")):
        data = load(path)
        for case, own in by_case(data, "output", "input", "weights/qkv/weight").items():
            yield from named(case, _block_checks(path.name, own))


def _block_checks(file: str, data: Arrays) -> Iterator[Check]:
    block = _block(data)
    tokens = torch.from_numpy(data["input"]).requires_grad_()
    output = block(tokens)
    yield relative(file, "output", output.detach(), data["output"], TOLERANCE)
    if "attention_branch_output" in data:
        branch = block.attention(block.project(tokens))
        yield relative(file, "attention branch", branch.detach(), data["attention_branch_output"], TOLERANCE)

    loss = output.square().sum()
    loss.backward()
    if "loss_sum_sq" in data:
        yield relative(file, "loss", loss.detach(), data["loss_sum_sq"], TOLERANCE)
    if "grad_input" in data:
        yield relative(file, "grad_input", tokens.grad, data["grad_input"], TOLERANCE)
    gradients = {name: parameter.grad for name, parameter in block.named_parameters()}
    recorded = _renamed(data, "grad/")
    for name, expected in recorded.items():
        yield relative(file, f"grad {name}", gradients.pop(name), expected, TOLERANCE)
    if recorded:
        yield exact(file, "parameters without a reference gradient", len(gradients), 0)
    if "output_float64" in data:
        double = block.double()(tokens.detach().double())
        yield relative(file, "output in float64", double.detach(), data["output_float64"], 1e-12)


def _block(data: Arrays) -> TransformerBlock:
    weights = {name: torch.from_numpy(value) for name, value in _renamed(data, "weights/").items()}
    hidden, dim = weights["fc1.weight"].shape
    config = DecoderConfig(
        depth=1,
        heads=int(setting(data, "heads", 1)),
        mlp_ratio=math.nextafter(hidden / dim, math.inf),  # the product with the width is cut
        qkv_bias="qkv.bias" in weights,
        norm_eps=NORM_EPS,
        width=0,
    )
    block = TransformerBlock(dim, config)
    block.load_state_dict(weights)
    return block


def _renamed(data: Arrays, prefix: str) -> dict[str, np.ndarray]:
    """Arrays below `prefix` under our parameter names."""
    renamed = {}
    for key, value in data.items():
        if key.startswith(prefix):
            layer, kind = key.removeprefix(prefix).split("/")
            renamed[f"{LAYERS.get(layer, layer)}.{kind}"] = value
    return renamed


def replay_c(folder: Path) -> Iterator[Check]:
    """Position tables [length, width], whatever their names."""
    for path in sorted(Path(folder).glob("c_*.npz")):
        for key, table in load(path).items():
            if is_setting(key) or table.ndim != 2:
                continue
            named = re.search(r"table_d(\d+)_len(\d+)$", key)
            dim, length = map(int, named.groups()) if named else table.shape[::-1]
            yield relative(path.name, key, sine_positions(length, dim), table, TOLERANCE)


def replay_i(folder: Path) -> Iterator[Check]:
    """The sliced crop (file i), its statistics, and the resampled crop (file i2)."""
    for path in sorted(Path(folder).glob("i_*.npz")):
        data = load(path)
        yield from _crop_checks(path.name, data, "slice")
        yield from _statistics(path.name, data)
    for path in sorted(Path(folder).glob("i2_*.npz")):
        yield from _crop_checks(path.name, load(path), "resample")


def _crop_checks(file: str, data: Arrays, mode: str) -> Iterator[Check]:
    """Crops of recorded offsets: `small_...`, and others of such names."""
    for case in cases(data, "output", "input", "row_offset", "col_offset"):
        images, expected = torch.from_numpy(data[f"{case}input"]), data[f"{case}output"]
        offsets = torch.from_numpy(np.stack([data[f"{case}col_offset"], data[f"{case}row_offset"]], axis=1))
        cropped = RandomCrop(images.shape[-1], expected.shape[-1], 0, mode)(images, offsets)
        if mode == "slice":
            yield exact(file, f"{case}output", cropped, expected)
        else:
            yield relative(file, f"{case}output", cropped, expected, TOLERANCE)


def _statistics(file: str, data: Arrays) -> Iterator[Check]:
    """Our draws against the counted ones of the clips' crop, and against the intensity's moments."""
    generator, draws = torch.Generator().manual_seed(0), 200_000
    for key, column in (("row", 1), ("col", 0)):
        expected = next((value for name, value in data.items() if f"aux_crop_{key}_counts" in name), None)
        if expected is None:
            continue
        crop = RandomCrop(len(expected), 1, 0, "slice")  # any sizes that leave as many offsets
        counts = torch.bincount(crop.draw(draws, generator, "cpu")[:, column], minlength=len(expected))
        yield exact(file, f"{key} offsets that occur", counts > 0, expected > 0)
        deviation = float(np.sqrt(len(expected) / expected.sum()))  # of one count in the smaller sample, relative
        yield relative(file, f"{key} frequencies", counts / draws, expected / expected.sum(), 5 * deviation)
    if "intensity_mean_std_min_max" in data:
        factor = intensity_factor(draws, INTENSITY, INTENSITY_CLAMP, generator, "cpu")
        moments = torch.stack([factor.mean(), factor.std(), factor.min(), factor.max()])
        yield relative(file, "intensity moments", moments, data["intensity_mean_std_min_max"], 1e-3)
