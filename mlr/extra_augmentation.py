"""Affine warp, blur and resized crop, which the released code offers beside shift, crop and intensity, through kornia.

Optional: nothing here is imported unless `augmentation.extra` names one. kornia's own modules draw from torch's global
generator; here its functions take values that the caller's generator has drawn. They build tables on the host as they
run, so a CUDA graph cannot capture them.

N images, C channels, H W pixels.
"""

import kornia
import torch
from torch import Tensor

# As SPR (Schwarzer et al. 2021) calls kornia, which later pixel-based agents repeat: RandomAffine(5, (.14, .14),
# (.9, 1.1), (-5, 5)), GaussianBlur2d((5, 5), (1.5, 1.5)), RandomResizedCrop(..., (.8, 1)).
DEGREES, SHEAR_DEGREES = 5.0, 5.0
TRANSLATION = 0.14  # share of the image's side
SCALES = (0.9, 1.1)
BLUR_PIXELS, BLUR_SIGMA = 5, 1.5
AREAS = (0.8, 1.0)  # the window's share of the image
RATIOS = (3 / 4, 4 / 3)  # its width over its height: the default of kornia's RandomResizedCrop


def affine(images: Tensor, generator: torch.Generator) -> Tensor:
    """Turns, moves, scales and shears (along x) each image [N, C, H, W] about its centre; what comes in is 0."""
    count, _, height, width = images.shape
    angle, x, y, scale, shear = _uniform(5, count, images, generator)
    size = torch.tensor([width, height], dtype=images.dtype, device=images.device)
    translation = TRANSLATION * (2 * torch.stack([x, y], dim=1) - 1) * size
    low, high = SCALES
    return warp(
        images,
        translation,
        (low + (high - low) * scale)[:, None].expand(-1, 2),
        DEGREES * (2 * angle - 1),
        SHEAR_DEGREES * (2 * shear - 1),
    )


def warp(images: Tensor, translation: Tensor, scale: Tensor, degrees: Tensor, shear_degrees: Tensor) -> Tensor:
    """Images [N, C, H, W] warped by translation [N, 2] in pixels, scale [N, 2], angle [N] and shear along x [N]."""
    count, _, height, width = images.shape
    center = torch.tensor([(width - 1) / 2, (height - 1) / 2], dtype=images.dtype, device=images.device)
    matrix = kornia.geometry.get_affine_matrix2d(
        translation, center.expand(count, 2), scale, degrees, torch.deg2rad(shear_degrees)
    )
    return kornia.geometry.warp_affine(images, matrix[:, :2], (height, width), align_corners=False)


def blur(images: Tensor, generator: torch.Generator) -> Tensor:
    """One Gaussian blur for all images [N, C, H, W]; nothing is drawn."""
    return kornia.filters.gaussian_blur2d(images, (BLUR_PIXELS, BLUR_PIXELS), (BLUR_SIGMA, BLUR_SIGMA))


def resized_crop(images: Tensor, generator: torch.Generator) -> Tensor:
    """A window of random area, shape and place of each image [N, C, H, W], enlarged to the whole size.

    A side that is longer than the image is cut to it; kornia draws anew, and after ten trials takes the whole image.
    """
    count, _, height, width = images.shape
    area, ratio, x, y = _uniform(4, count, images, generator)
    area = (AREAS[0] + (AREAS[1] - AREAS[0]) * area) * height * width
    ratio = RATIOS[0] * (RATIOS[1] / RATIOS[0]) ** ratio  # uniform in its logarithm
    side_x = (area * ratio).sqrt().round().clamp(2, width)
    side_y = (area / ratio).sqrt().round().clamp(2, height)
    left, top = (x * (width - side_x + 1)).floor(), (y * (height - side_y + 1)).floor()
    right, bottom = left + side_x - 1, top + side_y - 1
    corners = torch.stack([left, top, right, top, right, bottom, left, bottom], dim=1).view(count, 4, 2)
    return enlarge(images, corners)


def enlarge(images: Tensor, corners: Tensor) -> Tensor:
    """The windows with corner pixels [N, 4, 2] (x, y), clockwise from the upper left, at the size of images."""
    return kornia.geometry.crop_and_resize(images, corners, images.shape[-2:])


EXTRA = {"affine": affine, "blur": blur, "resized_crop": resized_crop}


def _uniform(rows: int, count: int, images: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform draws [rows, count] in 0..1."""
    return torch.rand(rows, count, generator=generator, device=images.device, dtype=images.dtype)
