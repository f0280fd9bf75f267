"""Random shift and intensity against reference file j.

Padding and strength of the intensity leave no trace in a shape; settings `pad`, `intensity` and `intensity_clamp` of
the file go before the usual ones.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import torch

from mlr.augmentation import Augmentation, RandomCrop
from mlr.config import AugmentationConfig
from tests.golden.atari_d import PAD
from tests.golden.check import Arrays, Check, by_case, exact, load, named, relative, setting
from tests.golden.views import INTENSITY, INTENSITY_CLAMP

TOLERANCE = 1e-4


def replay_j(folder: Path) -> Iterator[Check]:
    for path in sorted(folder.glob("j_*.npz")):
        data = load(path)
        for case, own in by_case(data, "offsets_xy").items():
            yield from named(case, _shifts(path.name, own))
        for case, own in by_case(data, "pipeline_images").items():
            yield from named(case, _pipeline(path.name, own))


def _shifts(file: str, data: Arrays) -> Iterator[Check]:
    images, pad = torch.from_numpy(data["images"]), int(setting(data, "pad", PAD))
    for key, channel in _numbered(data, r"shifted_channel(\d+)"):
        crop = RandomCrop(images.shape[-1], data[key].shape[-1], pad, "resample")
        for index, offset in enumerate(data["offsets_xy"]):
            offsets = torch.from_numpy(offset).long().expand(len(images), 2)
            shifted = crop(images, offsets)[:, channel] / 255
            yield relative(file, f"{key}[{index}]", shifted, data[key][index], TOLERANCE)


def _pipeline(file: str, data: Arrays) -> Iterator[Check]:
    images, seed = torch.from_numpy(data["pipeline_images"]), int(data["torch_seed"])
    count, size = len(images), images.shape[-1]
    config = AugmentationConfig(
        extra=[],
        crop="resample",
        pad=int(setting(data, "pad", PAD)),
        intensity=setting(data, "intensity", INTENSITY),
        intensity_clamp=setting(data, "intensity_clamp", INTENSITY_CLAMP),
    )
    cropped = [data[key].shape[-1] for key, *_ in _numbered(data, r"pipeline_out(\d+)_channel(\d+)")]
    augmentation = Augmentation(config, size, cropped[0] if cropped else size)

    generator = torch.Generator().manual_seed(seed)
    for axis in "xy":
        yield exact(
            file, f"pipeline_uniform_{axis}", torch.rand(count, generator=generator), data[f"pipeline_uniform_{axis}"]
        )
    generator.manual_seed(seed)
    offsets = augmentation.crop.draw(count, generator, "cpu")
    yield exact(file, "pipeline_offset_xy", offsets, data["pipeline_offset_xy"])
    yield exact(file, "pipeline_normal", torch.randn(count, generator=generator), data["pipeline_normal"])

    out = augmentation(images, torch.Generator().manual_seed(seed)) / 255
    flat = out.double().flatten(1)
    yield relative(file, "pipeline_out_sum", flat.sum(dim=1), data["pipeline_out_sum"], TOLERANCE)
    yield relative(file, "pipeline_out_l2", flat.norm(dim=1), data["pipeline_out_l2"], TOLERANCE)
    for key, image, channel in _numbered(data, r"pipeline_out(\d+)_channel(\d+)"):
        yield relative(file, key, out[image, channel], data[key], TOLERANCE)


def _numbered(data: Arrays, pattern: str) -> Iterator[tuple]:
    """Keys of the pattern, each with its numbers."""
    for key in data:
        match = re.fullmatch(pattern, key)
        if match:
            yield key, *map(int, match.groups())
