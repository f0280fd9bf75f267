"""Share of a picture's pixels that a mask of tokens really hides. Nothing here imports torch."""

from math import comb

from mlr.cells import features_of
from mwm.config import PATCH, MWMSection, kept_tokens

STEMS = {"conv": ((4, 2, 2),) * 3, "patch": ((PATCH, PATCH, 0),)}  # layers as `mlr.cells` has them


def hidden_pixels(stem: str, image_size: int, mask_ratio: float) -> float:
    """Mean share of the pixels that no kept token reads, over all masks of this ratio.

    Tokens of the convolutional stem read 22 pixels a side and overlap, so it is far less than the ratio.
    """
    tokens = (image_size // PATCH) ** 2
    kept = kept_tokens(tokens, mask_ratio)
    axis = [len(features_of(pixel, image_size, STEMS[stem])) for pixel in range(image_size)]
    shares = [comb(tokens - rows * columns, kept) / comb(tokens, kept) for rows in axis for columns in axis]
    return sum(shares) / len(shares)


def hidden(section: MWMSection, image_size: int) -> tuple[int, int, float]:
    """Number of tokens, how many of them a mask drops, and the share of the pixels that this hides."""
    tokens = (image_size // PATCH) ** 2
    dropped = tokens - kept_tokens(tokens, section.mask_ratio)
    return tokens, dropped, hidden_pixels(section.stem, image_size, section.mask_ratio)
