"""N images, C channels, H W pixels; offsets are (x, y)."""

import math

import numpy as np
import pytest
import torch
from kornia.augmentation import RandomAffine, RandomResizedCrop
from kornia.augmentation import RandomCrop as KorniaCrop
from kornia.filters import GaussianBlur2d

from harness.config import ConfigError
from mlr import augmentation, config
from mlr.augmentation import Augmentation, RandomCrop, View, intensity_factor
from mlr.config import AugmentationConfig
from mlr.extra_augmentation import EXTRA, affine, blur, enlarge, resized_crop, warp
from tests.golden.atari_j import replay_j
from tests.golden.check import DATA, assert_all
from tests.golden.dmcontrol_core import replay_i

SIZES = [(84, 84, 4), (100, 84, 0), (12, 8, 0), (9, 9, 2), (9, 12, 2), (6, 6, 0)]  # image, crop, pad


def noise(count, channels, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, generator=generator)


def padded(image, pad):
    """[C, H, W] float64 with its edge pixels repeated."""
    return np.pad(image.numpy().astype(np.float64), [(0, 0), (pad, pad), (pad, pad)], mode="edge")


def interpolation_matrix(offset, padded_size, crop_size):
    """Weights of the padded pixels in every output pixel of one axis, from the closed form, float64."""
    weights = np.zeros((crop_size, padded_size))
    for k in range(crop_size):
        scale = padded_size / (padded_size - 1)
        position = (offset + (k + 0.5) * (crop_size - 1) / crop_size) * scale - 0.5
        lower = math.floor(position)
        for pixel, weight in ((lower, 1 - (position - lower)), (lower + 1, position - lower)):
            if 0 <= pixel < padded_size:
                weights[k, pixel] += weight
    return weights


def every_offset(crop):
    return torch.cartesian_prod(torch.arange(crop.offsets), torch.arange(crop.offsets))


@pytest.mark.parametrize(("image_size", "crop_size", "pad"), SIZES)
def test_slice_is_a_window_of_the_padded_image(image_size, crop_size, pad):
    crop = RandomCrop(image_size, crop_size, pad, "slice")
    assert crop.offsets == image_size + 2 * pad - crop_size + 1
    offsets = every_offset(crop)
    image = noise(1, 2, image_size)
    cropped = crop(image.expand(len(offsets), -1, -1, -1), offsets)
    assert cropped.dtype == torch.float32
    source = padded(image[0], pad)
    for (x, y), actual in zip(offsets.tolist(), cropped, strict=True):
        np.testing.assert_array_equal(actual.numpy(), source[:, y : y + crop_size, x : x + crop_size])


def test_slice_is_kornias_exact_crop():
    images = noise(40, 4, 84).float()
    torch.manual_seed(0)
    kornia = KorniaCrop((84, 84), padding=4, padding_mode="replicate", cropping_mode="slice")
    expected = kornia(images)
    offsets = kornia._params["src"][:, 0].long()  # of the window's upper left corner
    assert len(offsets.unique(dim=0)) > 20
    assert RandomCrop(84, 84, 4, "slice")(images, offsets).equal(expected)


@pytest.mark.parametrize(("image_size", "crop_size", "pad"), SIZES)
def test_resample_is_the_closed_form(image_size, crop_size, pad):
    crop = RandomCrop(image_size, crop_size, pad, "resample")
    offsets = every_offset(crop)
    image = noise(1, 1, image_size)
    cropped = crop(image.expand(len(offsets), -1, -1, -1), offsets)
    source = padded(image[0], pad)[0]
    matrices = [interpolation_matrix(offset, len(source), crop_size) for offset in range(crop.offsets)]
    ulp = np.spacing(np.float32(len(source)))  # of positions on both axes; neighbours differ by up to 255
    for (x, y), actual in zip(offsets.tolist(), cropped[:, 0], strict=True):
        expected = matrices[y] @ source @ matrices[x].T
        np.testing.assert_allclose(actual.numpy(), expected, atol=2 * 255 * ulp, rtol=0)


@pytest.mark.parametrize("mode", ["slice", "resample"])
def test_pieces_and_dtype_do_not_change_the_crop(mode, monkeypatch):
    crop = RandomCrop(20, 16, 2, mode)
    images = noise(11, 3, 20)
    offsets = crop.draw(11, torch.Generator().manual_seed(0), "cpu")
    whole = crop(images, offsets)
    assert crop(images.float(), offsets).equal(whole)
    for piece in (1, 4, 100):
        monkeypatch.setattr(augmentation, "CPU_SLICE", piece)
        assert crop(images, offsets).equal(whole)


@pytest.mark.parametrize("mode", ["slice", "resample"])
def test_pixels_lie_channels_last_and_are_multiplied_by_their_factor(mode):
    images, factor = noise(11, 3, 20), torch.linspace(0.5, 1.5, 11)
    crop = RandomCrop(20, 16, 2, mode)
    offsets = crop.draw(11, torch.Generator().manual_seed(0), "cpu")
    plain, multiplied = crop(images, offsets), crop(images, offsets, factor)
    assert multiplied.equal(plain * factor[:, None, None, None])
    for cropped in (plain, multiplied):
        assert cropped.is_contiguous(memory_format=torch.channels_last) and not cropped.is_contiguous()


def test_joined_views_are_the_views():
    augment = Augmentation(AugmentationConfig("resample", 2, 0.1, 2.0, []), 20, 16)
    generator = torch.Generator().manual_seed(0)
    views = [augment.view(noise(5, 3, 20, seed), generator) for seed in (0, 1)]
    assert augmentation.joined(views)[...].equal(torch.cat([view[...] for view in views]))


def test_all_shifts_occur_equally_often():
    crop = RandomCrop(84, 84, 4, "slice")
    draws = 90_000
    offsets = crop.draw(draws, torch.Generator().manual_seed(0), "cpu")
    assert offsets.dtype == torch.int64 and offsets.shape == (draws, 2)
    assert offsets.amin(dim=0).tolist() == [0, 0] and offsets.amax(dim=0).tolist() == [8, 8]
    counts = torch.bincount(offsets[:, 0] * 9 + offsets[:, 1], minlength=81)
    mean = draws / 81
    assert (counts - mean).abs().max() < 5 * mean**0.5


def test_largest_uniform_stays_inside():
    largest = 1 - 2**-24
    for count in range(1, 2000):
        assert (count * torch.tensor([largest])).long().item() == count - 1


def test_intensity_statistics():
    factor = intensity_factor(200_000, 0.05, 2.0, torch.Generator().manual_seed(0), "cpu")
    assert factor.shape == (200_000,) and factor.dtype == torch.float32
    assert factor.min().item() == pytest.approx(0.9) and factor.max().item() == pytest.approx(1.1)
    tail = 0.5 * math.erfc(2 / math.sqrt(2))  # a normal's share above 2
    density = math.exp(-2) / math.sqrt(2 * math.pi)
    variance = (1 - 2 * tail - 4 * density) + 8 * tail  # inside the limits, and at them
    assert factor.mean().item() == pytest.approx(1, abs=5e-4)
    assert factor.std().item() == pytest.approx(0.05 * math.sqrt(variance), rel=1e-2)
    assert (factor > 1.0999).float().mean().item() == pytest.approx(tail, rel=0.1)


def test_every_image_is_drawn_on_its_own():
    frames = noise(1, 2, 20).expand(3, 5, 2, 20, 20)  # the same image everywhere
    view = Augmentation(AugmentationConfig("slice", 2, 0.05, 2.0, []), 20, 20)
    out = view(frames, torch.Generator().manual_seed(0))
    assert out.shape == (3, 5, 2, 20, 20) and out.dtype == torch.float32
    assert len({tuple(image.flatten().tolist()) for image in out.flatten(0, 1)}) == 15
    assert out.max() > 230 and out.max() <= 255 * 1.1 + 1e-3


def test_draw_order_is_x_then_y_then_intensity():
    frames = noise(6, 2, 20).unflatten(0, (2, 3))
    view = Augmentation(AugmentationConfig("slice", 2, 0.05, 2.0, []), 20, 20)
    out = view(frames, torch.Generator().manual_seed(3)).flatten(0, 1)
    generator = torch.Generator().manual_seed(3)
    x = (torch.rand(6, generator=generator) * 5).floor().int().tolist()
    y = (torch.rand(6, generator=generator) * 5).floor().int().tolist()
    factors = 1 + 0.05 * torch.randn(6, generator=generator).clamp(-2, 2)
    for i, image in enumerate(frames.flatten(0, 1)):
        expected = padded(image, 2)[:, y[i] : y[i] + 20, x[i] : x[i] + 20] * factors[i].item()
        np.testing.assert_allclose(out[i].numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("extra", [[], ["blur"]])
def test_a_view_makes_in_pieces_what_a_call_makes_at_once(extra):
    augment = Augmentation(AugmentationConfig("resample", 2, 0.05, 2.0, extra), 20, 16)
    frames = torch.randint(0, 256, (3, 5, 2, 20, 20), dtype=torch.uint8)
    whole, drawn = augment(frames, seeded()), augment.view(frames, seeded())
    assert len(drawn) == 3
    for part in (slice(0, 2), slice(2, 5)):
        assert drawn[:, part].equal(whole[:, part]) and drawn[part].equal(whole[part])
    offsets = augment.crop.draw(5, seeded(), "cpu")
    assert View(augment.crop, frames[0], offsets)[2:4].equal(augment.crop(frames[0], offsets)[2:4])


def test_input_is_left_alone_without_any_change_to_make():
    frames = noise(2, 1, 8).float()
    before = frames.clone()
    Augmentation(AugmentationConfig("slice", 0, 0.05, 2.0, []), 8, 8)(frames, torch.Generator().manual_seed(0))
    assert frames.equal(before)


def test_tables_are_no_state():
    assert not Augmentation(AugmentationConfig("resample", 4, 0.05, 2.0, []), 84, 84).state_dict()


def test_reference_shift_and_intensity():
    assert_all(replay_j(DATA / "atari"))


def test_reference_crops():
    assert_all(replay_i(DATA / "dmcontrol"))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_warp_is_kornias_random_affine():
    images = noise(6, 2, 20).float()
    torch.manual_seed(0)
    kornia = RandomAffine(5, (0.14, 0.14), (0.9, 1.1), (-5, 5), p=1.0)
    expected, drawn = kornia(images), kornia._params
    assert drawn["shear_y"].eq(0).all()
    warped = warp(images, drawn["translations"], drawn["scale"], drawn["angle"], drawn["shear_x"])
    torch.testing.assert_close(warped, expected, rtol=0, atol=1e-3)


def test_enlarged_windows_are_kornias_resized_crop():
    images = noise(6, 2, 20).float()
    torch.manual_seed(0)
    kornia = RandomResizedCrop((20, 20), p=1.0, cropping_mode="resample")
    expected = kornia(images)
    torch.testing.assert_close(enlarge(images, kornia._params["src"]), expected, rtol=0, atol=1e-3)


def test_blur_is_kornias():
    images = noise(3, 2, 20).float()
    assert blur(images, seeded()).equal(GaussianBlur2d((5, 5), (1.5, 1.5))(images))


@pytest.mark.parametrize("augment", [affine, resized_crop])
def test_an_extra_draws_every_image_from_the_given_generator_alone(augment):
    images = noise(1, 2, 84).float().expand(8, -1, -1, -1)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    out = augment(images, seeded(1))
    assert out.shape == images.shape and out.min() >= 0 and out.max() <= 255.01
    assert len({tuple(image.flatten().tolist()) for image in out}) == 8
    assert augment(images, seeded(1)).equal(out) and not augment(images, seeded(2)).equal(out)
    assert torch.get_rng_state().equal(before)


def test_warps_stay_within_their_limits(monkeypatch):
    drawn = {}
    monkeypatch.setattr("mlr.extra_augmentation.warp", lambda images, *values: drawn.update(enumerate(values)))
    affine(torch.zeros(20_000, 1, 10, 30), seeded())
    translation, scale, degrees, shear = (drawn[i] for i in range(4))
    limits = [(translation[:, 0], -4.2, 4.2), (translation[:, 1], -1.4, 1.4), (scale, 0.9, 1.1), (degrees, -5, 5)]
    for values, low, high in [*limits, (shear, -5, 5)]:
        assert low <= values.min() < low + 0.01 * (high - low)
        assert high >= values.max() > high - 0.01 * (high - low)


def test_resized_windows_lie_inside_and_are_large(monkeypatch):
    monkeypatch.setattr("mlr.extra_augmentation.enlarge", lambda images, corners: corners)
    corners = resized_crop(torch.zeros(20_000, 1, 84, 84), seeded())
    low, high = corners[:, 0], corners[:, 2]
    assert low.min() == 0 and high.max() == 83 and (corners == corners.round()).all()
    width, height = (high - low + 1).unbind(1)
    area = width * height / 84**2
    assert 0.76 < area.min() < 0.79 and area.max() > 0.98  # the smallest: of 0.8, cut at one side
    assert corners[:, 1].equal(torch.stack([high[:, 0], low[:, 1]], 1))


def test_extras_come_before_the_crop():
    frames = noise(6, 2, 20)
    view = Augmentation(AugmentationConfig("slice", 2, 0.05, 2.0, list(EXTRA)), 20, 16)
    out = view(frames, seeded())
    generator, expected = seeded(), frames.float()
    for name in ("affine", "blur", "resized_crop"):
        expected = EXTRA[name](expected, generator)
    plain = Augmentation(AugmentationConfig("slice", 2, 0.05, 2.0, []), 20, 16)
    assert out.equal(plain(expected, generator))


def test_an_extra_that_cannot_be_had_is_refused(monkeypatch):
    values = AugmentationConfig("slice", 2, 0.05, 2.0, ["blur"])
    values.check(20)
    with pytest.raises(ValueError, match="is not one of affine, blur, resized_crop"):
        AugmentationConfig("slice", 2, 0.05, 2.0, ["sharpen"])
    monkeypatch.setattr(config, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[augment\]'"):
        values.check(20)


def test_the_names_are_those_of_the_schema():
    assert tuple(EXTRA) == config.EXTRA_AUGMENTATIONS
