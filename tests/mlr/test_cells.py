"""g cells a side of a mask, m side of a stage's map, S side of the image."""

from dataclasses import replace
from itertools import combinations

import pytest
import torch
from torch import nn

from mlr.cells import hidden_by, hidden_cell_share, hidden_count, receptive_field, unseen_share
from mlr.config import MaskConfig
from mlr.masking import enlarge, sample_mask
from tests.mlr.test_objective import CONFIG

ATARI, DMCONTROL = [(8, 4, 0), (4, 2, 0), (3, 1, 0)], [(3, 2, 0), (3, 1, 0), (3, 1, 0), (3, 1, 0)]
STAGES = [[layer] for layer in ATARI]


def mask_config(strategy="cube", ratio=0.5, patch=12, depth=8, rounding="up", space="pixel", stage="conv1"):
    return MaskConfig(strategy, ratio, patch, depth, rounding, space, stage)


@pytest.mark.parametrize(
    ("cells", "ratio", "down", "up"),
    [
        (49, 0.5, 24, 25),
        (49, 0.25, 12, 13),
        (49, 0.3, 14, 15),
        (49, 0.75, 36, 37),
        (100, 0.29, 28, 29),
        (10, 0.9, 9, 10),  # the visible share is 0.09999999999999998
        (100, 0.5, 50, 50),
        (1, 0.5, 0, 1),
        (49, 0.0, 0, 0),
        (49, 1.0, 49, 49),
    ],
)
def test_hidden_count(cells, ratio, down, up):
    assert hidden_count(cells, ratio, "down") == down
    assert hidden_count(cells, ratio, "up") == up


@pytest.mark.parametrize("strategy", ["cube", "spatial", "temporal", "none"])
@pytest.mark.parametrize(("ratio", "rounding"), [(0.0, "up"), (0.3, "up"), (0.5, "down"), (0.9, "down"), (1.0, "up")])
@pytest.mark.parametrize(("size", "patch"), [(84, 12), (100, 33), (20, 7)])
def test_the_hidden_share_is_the_one_of_drawn_masks(strategy, ratio, rounding, size, patch):
    config = mask_config(strategy, ratio, patch, depth=2, rounding=rounding)
    mask = sample_mask(config, 16, size, torch.Generator().manual_seed(0), "cpu")
    assert hidden_cell_share(config, 16, size) == pytest.approx(mask.double().mean().item(), abs=1e-12)
    shares = hidden_by(replace(CONFIG, seq_len=16, mask=config), size, size, STAGES)
    assert shares.pixels == shares.cells == hidden_cell_share(config, 16, size)


def test_every_pixel_is_hidden_with_that_probability_where_cells_have_unequal_sizes():
    config, size = mask_config(patch=7, depth=1), 20  # 2 x 2 cells of 10 pixels: enumerated
    masks = [[i in chosen for i in range(4)] for chosen in combinations(range(4), 2)]
    pixels = enlarge(torch.tensor(masks).view(-1, 2, 2), size).double().mean(0)
    assert (pixels == hidden_cell_share(config, 16, size)).all()


def unseen_pixels(mask, image_size, layers):
    """Pixels that no surviving feature sees, bool [S, S]: gradients of all-ones convolutions tell what is seen."""
    pixels = torch.zeros(1, 1, image_size, image_size, requires_grad=True)
    features = pixels
    for kernel, stride, padding in layers:
        before, after = padding // 2, padding - padding // 2
        convolution = nn.Conv2d(1, 1, kernel, stride, bias=False)
        nn.init.ones_(convolution.weight)
        features = convolution(nn.functional.pad(features, (before, after, before, after)))
    visible = enlarge(mask, features.shape[-1]).logical_not().float()
    (whole,) = torch.autograd.grad(features.sum(), pixels, retain_graph=True)
    (seen,) = torch.autograd.grad((features[0, 0] * visible).sum(), pixels)
    return (seen[0, 0] == 0), (whole[0, 0] == 0)


@pytest.mark.parametrize(
    ("size", "patch", "ratio", "layers"),
    [
        (20, 7, 0.5, [(4, 2, 0)]),
        (21, 7, 0.4, [(3, 2, 0), (3, 1, 0)]),
        (24, 8, 0.9, [(8, 4, 0), (2, 1, 0)]),
        (13, 4, 0.7, [(3, 3, 0)]),
        (20, 7, 0.6, [(8, 4, 4), (4, 2, 3)]),
        (16, 6, 0.6, [(3, 1, 2), (3, 2, 1)]),
    ],
)
def test_the_unseen_share_is_the_mean_over_all_masks(size, patch, ratio, layers):
    config = mask_config(patch=patch, ratio=ratio)
    grid = size // patch
    cells = grid**2
    hidden = cells - int((1 - ratio) * cells)
    shares = []
    for chosen in combinations(range(cells), hidden):
        mask = torch.tensor([i in chosen for i in range(cells)]).view(grid, grid)
        unseen, never = unseen_pixels(mask, size, layers)
        shares.append(((unseen & ~never).sum() / (~never).sum()).item())
    assert max(shares) > min(shares) or hidden == cells
    assert unseen_share(config, size, size, layers) == pytest.approx(sum(shares) / len(shares), rel=1e-6)


def test_the_unseen_share_is_the_one_of_drawn_masks_at_full_size():
    config, generator = mask_config(patch=10, rounding="down"), torch.Generator().manual_seed(0)
    shares = []
    for _ in range(60):
        mask = sample_mask(config, 8, 100, generator, "cpu")[0, 0]
        unseen, never = unseen_pixels(mask, 84, DMCONTROL[:3])
        shares.append(((unseen & ~never).sum() / (~never).sum()).item())
    shares = torch.tensor(shares)
    expected = unseen_share(config, 100, 84, DMCONTROL[:3])
    assert abs(shares.mean() - expected) < 4 * shares.std() / len(shares) ** 0.5


def test_receptive_fields():
    assert [receptive_field(ATARI[:n], 84)[:3] for n in range(4)] == [(1, 1, 84), (8, 4, 20), (20, 8, 9), (36, 8, 7)]
    assert [receptive_field(DMCONTROL[:n], 84)[0] for n in (1, 2, 3, 4)] == [3, 7, 11, 15]


def test_equal_ratios_are_not_equal_difficulties():
    """Half of the features of Atari's last convolution are 5 % of the pixels."""
    features = [mask_config(rounding="down", space="feature", stage=f"conv{n}") for n in (1, 2, 3)]
    shares = [hidden_by(replace(CONFIG, seq_len=16, mask=mask), 84, 84, STAGES) for mask in features]
    assert [share.cells for share in shares] == [24 / 49] * 3
    assert [round(share.pixels, 2) for share in shares] == [0.35, 0.16, 0.05]
    temporal = replace(features[2], strategy="temporal")
    assert hidden_by(replace(CONFIG, seq_len=16, mask=temporal), 84, 84, STAGES).pixels == 0.5
    assert str(shares[2]) == "49.0% of its cells, 5.2% of the pixels"
