"""Share of a picture's pixels that a mask of tokens really hides. Nothing here imports torch."""

from math import comb

from mwm.config import PATCH, MWMSection, kept_tokens

STEMS = {"conv": ((4, 2, 1),) * 3, "patch": ((PATCH, PATCH, 0),)}  # kernel, stride and padding of each layer


def seen_by(stem: str, pixel: int, grid: int) -> int:
    """Number of tokens along one axis of `grid` that read a pixel."""
    start, length, stride = 0, 1, 1  # of the pixels that the token 0 reads
    for kernel, step, padding in STEMS[stem]:
        start, length, stride = start - padding * stride, length + (kernel - 1) * stride, stride * step
    return sum(start + token * stride <= pixel < start + token * stride + length for token in range(grid))


def hidden_pixels(stem: str, image_size: int, mask_ratio: float) -> float:
    """Mean share of the pixels that no kept token reads, over all masks of this ratio.

    Tokens of the convolutional stem read 22 pixels a side and overlap, so it is far less than the ratio.
    """
    grid = image_size // PATCH
    tokens, kept = grid**2, kept_tokens(grid**2, mask_ratio)
    axis = [seen_by(stem, pixel, grid) for pixel in range(image_size)]
    shares = [comb(tokens - rows * columns, kept) / comb(tokens, kept) for rows in axis for columns in axis]
    return sum(shares) / len(shares)


def hidden(section: MWMSection, image_size: int) -> tuple[int, int, float]:
    """Number of tokens, how many of them a mask drops, and the share of the pixels that this hides."""
    tokens = (image_size // PATCH) ** 2
    dropped = tokens - kept_tokens(tokens, section.mask_ratio)
    return tokens, dropped, hidden_pixels(section.stem, image_size, section.mask_ratio)
