import pytest

from atari.cost import update_flops
from tests.conftest import make_config


def test_the_arithmetic_of_a_full_update_is_the_counted_one():
    """Counted by hand: 1.008 TFLOP with whole blocks, 0.182 less with the last one pruned, and 2.8 GFLOP without MLR.

    From that, 0.060 go with the order of products in the last block, and in the first 0.074 with actions alike,
    6 of 32. The 2.8 hold one product per noisy layer; ours makes a second one instead of a noise matrix.
    """
    second_products = 2 * 32 * (3 + 2) * 256 * (2 * 3136 + 7 * 51)
    assert update_flops(make_config("unused", "preset=full"), 6) == pytest.approx(
        (1.008 - 0.182 - 0.134) * 1e12, rel=0.01
    )
    assert update_flops(make_config("unused", "preset=full", "aux=none"), 6) == pytest.approx(
        2.8e9 + second_products, rel=0.02
    )
