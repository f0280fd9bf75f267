"""K steps, g cells a side, T B C H W a clip of stacked frames."""

import numpy as np
import pytest
import torch

from mlr.config import MaskConfig
from mlr.masking import StageMask, enlarge, hide, sample_mask
from tests.golden.check import DATA, assert_all
from tests.golden.dmcontrol_core import replay_a


def draw(strategy="cube", ratio=0.5, patch=12, depth=8, rounding="down", steps=16, size=84, seed=0):
    config = MaskConfig(strategy, ratio, patch, depth, rounding, "pixel", "conv1")
    return sample_mask(config, steps, size, torch.Generator().manual_seed(seed), "cpu")


@pytest.mark.parametrize(("rounding", "expected"), [("down", 24), ("up", 25)])
@pytest.mark.parametrize("depth", [1, 4, 8, 16])
def test_every_cube_block_hides_the_same_count_and_is_constant_inside(rounding, expected, depth):
    mask = draw(depth=depth, rounding=rounding)
    assert mask.shape == (1, 16, 7, 7) and mask.dtype == torch.bool
    blocks = mask[0].unflatten(0, (-1, depth))
    assert (blocks == blocks[:, :1]).all()
    assert blocks[:, 0].flatten(1).sum(dim=1).tolist() == [expected] * (16 // depth)
    if depth < 16:
        assert (blocks[0, 0] != blocks[1, 0]).any()


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_nothing_or_everything_hidden(ratio):
    for strategy in ("cube", "spatial", "temporal"):
        for rounding in ("down", "up"):
            assert draw(strategy, ratio=ratio, rounding=rounding).float().mean() == ratio


def test_spatial_draws_a_grid_for_every_step():
    mask = draw("spatial", rounding="up")[0].flatten(1)
    assert mask.sum(dim=1).tolist() == [25] * 16
    assert len({tuple(row.tolist()) for row in mask}) == 16


@pytest.mark.parametrize(("steps", "rounding", "expected"), [(16, "down", 8), (5, "down", 2), (5, "up", 3)])
def test_temporal_hides_whole_frames(steps, rounding, expected):
    mask = draw("temporal", steps=steps, depth=1, rounding=rounding)
    assert mask.shape == (1, steps, 7, 7)
    frames = mask[0].flatten(1)
    assert (frames == frames[:, :1]).all()
    assert frames[:, 0].sum() == expected


@pytest.mark.parametrize(("strategy", "axis"), [("cube", "cells"), ("temporal", "steps")])
def test_every_cell_is_hidden_equally_often(strategy, axis):
    generator, draws = torch.Generator().manual_seed(0), 4000
    config = MaskConfig(strategy, 0.5, 12, 2, "up", "pixel", "conv1")
    masks = torch.cat([sample_mask(config, 4, 36, generator, "cpu") for _ in range(draws)])  # [draws, 4, 3, 3]
    share = 5 / 9 if axis == "cells" else 2 / 4
    frequency = masks.float().mean(dim=0)
    assert (frequency - share).abs().max() < 5 * (share * (1 - share) / draws) ** 0.5


def test_blocks_are_independent():
    generator, draws = torch.Generator().manual_seed(0), 4000
    config = MaskConfig("cube", 0.5, 12, 2, "up", "pixel", "conv1")
    masks = torch.cat([sample_mask(config, 4, 36, generator, "cpu") for _ in range(draws)]).float()
    first, second = masks[:, 0].flatten(1), masks[:, 2].flatten(1)
    both = first.T @ second / draws  # any cell of one block with any of the other
    share = (5 / 9) ** 2
    assert (both - share).abs().max() < 5 * (share * (1 - share) / draws) ** 0.5


def test_the_generator_decides():
    assert draw(seed=1).equal(draw(seed=1))
    assert not draw(seed=1).equal(draw(seed=2))
    generator = torch.Generator().manual_seed(0)
    config = MaskConfig("cube", 0.5, 12, 8, "up", "pixel", "conv1")
    assert not sample_mask(config, 16, 84, generator, "cpu").equal(sample_mask(config, 16, 84, generator, "cpu"))


@pytest.mark.parametrize(("size", "patch", "widths"), [(84, 12, {12}), (100, 12, {12, 13}), (100, 33, {33, 34})])
def test_enlarge_covers_every_pixel(size, patch, widths):
    grid = size // patch
    mask = draw(patch=patch, size=size)
    pixels = enlarge(mask, size)
    assert pixels.shape == (1, 16, size, size)
    cell = [int(np.floor(i * grid / size)) for i in range(size)]
    assert {cell.count(index) for index in range(grid)} == widths
    for i in range(size):
        for j in range(size):
            assert pixels[0, :, i, j].equal(mask[0, :, cell[i], cell[j]])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_hide_puts_one_mask_on_the_whole_batch(dtype):
    steps, batch, channels, size = 4, 3, 2, 10
    frames = torch.randint(1, 256, (steps, batch, channels, size, size), dtype=torch.uint8).to(dtype)
    mask = draw(patch=3, depth=2, steps=steps, size=size)
    masked = hide(frames, mask)
    assert masked.dtype == dtype and masked.shape == frames.shape
    expected = frames.numpy().copy()
    for t in range(steps):
        for i in range(size):
            for j in range(size):
                if mask[0, t, i * 3 // size, j * 3 // size]:
                    expected[t, :, :, i, j] = 0
    np.testing.assert_array_equal(masked.numpy(), expected)


def test_none_hides_nothing_and_draws_nothing():
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    mask = sample_mask(MaskConfig("none", 0.5, 12, 2, "up", "pixel", "conv1"), 4, 36, generator, "cpu")
    assert mask.shape == (1, 4, 3, 3) and mask.dtype == torch.bool and not mask.any()
    assert generator.get_state().equal(before)


def test_a_stage_mask_hides_the_cells_of_its_own_stage_in_every_image_and_channel():
    steps, batch, channels, side, grid = 4, 3, 2, 7, 3
    features = torch.rand(steps * batch, channels, side, side) + 1
    mask = draw(patch=3, depth=2, steps=steps, size=10)
    stage_mask = StageMask("conv2", mask)
    assert stage_mask("conv1", features) is features
    masked = stage_mask("conv2", features)
    for image in range(steps * batch):
        step = image // batch  # images are step-major
        for i in range(side):
            for j in range(side):
                hidden = mask[0, step, i * grid // side, j * grid // side]
                expected = torch.zeros(channels) if hidden else features[image, :, i, j]
                assert masked[image, :, i, j].equal(expected)


def test_reference_masks():
    assert_all(replay_a(DATA / "dmcontrol"))
