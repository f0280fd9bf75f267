from fractions import Fraction

import numpy as np
import torch

from harness.replay.priorities import Priorities


def priorities_of(leaves):
    priorities = Priorities(len(leaves), "cpu")
    priorities.leaves.copy_(torch.tensor(leaves, dtype=torch.float64))
    return priorities


def first_to_reach(leaves, uniform):
    """Exact arithmetic; a leaf of zero never answers."""
    target, total = Fraction(uniform) * sum(map(Fraction, leaves)), Fraction(0)
    for index, leaf in enumerate(leaves):
        total += Fraction(leaf)
        if leaf > 0 and total >= target:
            return index


def test_a_draw_is_the_first_leaf_whose_sum_reaches_the_target():
    rng = np.random.default_rng(0)
    for _ in range(50):
        # Integers that sum to a power of two and uniforms on its grid: every boundary is hit, without rounding.
        leaves = rng.multinomial(64, rng.dirichlet(np.full(20, 0.3))).tolist()
        uniforms = np.arange(0, 64, 0.5) / 64
        drawn = priorities_of(leaves).draw(torch.tensor(uniforms))
        assert drawn.tolist() == [first_to_reach(leaves, uniform) for uniform in uniforms]


def test_extreme_uniforms_never_return_a_zero_leaf():
    extremes = torch.tensor([0.0, 5e-324, 2.0**-53, 1 - 2.0**-53], dtype=torch.float64)
    drawn = priorities_of([0.0, 0.0, 1e-3, 0.0, 0.1, 1e3, 0.0]).draw(extremes)
    assert drawn.tolist() == [2, 2, 2, 5]


def test_a_draw_from_nothing_or_from_no_numbers_is_still_a_slot():
    uniforms = torch.tensor([0.0, 0.5, 1 - 2.0**-53], dtype=torch.float64)
    for leaves in ([0.0] * 3, [1.0, float("nan"), 1.0]):
        drawn = priorities_of(leaves).draw(uniforms)
        assert ((drawn >= 0) & (drawn < 3)).all()


def test_the_order_in_which_a_scan_adds_up_cannot_matter(monkeypatch):
    rng = np.random.default_rng(0)
    leaves = rng.gamma(0.1, size=500) * (rng.random(500) < 0.5)
    uniforms = torch.linspace(0, 1 - 2.0**-53, 20000, dtype=torch.float64)
    expected = priorities_of(leaves).draw(uniforms)
    assert (leaves[expected.numpy()] > 0).all()

    def from_the_end(values, dim):
        return values.sum() - values.flip(0).roll(1).index_fill(0, torch.tensor([0]), 0).cumulative(0).flip(0)

    monkeypatch.setattr(torch.Tensor, "cumulative", torch.Tensor.cumsum, raising=False)
    monkeypatch.setattr(torch.Tensor, "cumsum", from_the_end)
    drawn = priorities_of(leaves)
    assert torch.equal(drawn.draw(uniforms), expected)
    assert torch.equal(from_the_end(torch.tensor([1, 2, 4]), 0), torch.tensor([1, 3, 7]))


def test_frequencies_are_proportional_to_the_leaves():
    rng = np.random.default_rng(0)
    leaves = rng.gamma(1.0, size=60) * (rng.random(60) < 0.8)
    draws = 200_000
    uniforms = torch.rand(draws, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    counts = np.bincount(priorities_of(leaves).draw(uniforms).numpy(), minlength=60)
    expected = draws * leaves / leaves.sum()
    positive = leaves > 0
    assert counts[~positive].sum() == 0
    chi_square = ((counts - expected)[positive] ** 2 / expected[positive]).sum()
    freedom = positive.sum() - 1
    assert abs(chi_square - freedom) < 4 * np.sqrt(2 * freedom)


def test_update_writes_the_first_value_of_a_repeated_index():
    priorities = priorities_of([1.0] * 6)
    priorities.update(torch.tensor([4, 2, 4, 0, 2, 4]), torch.tensor([5.0, 6.0, 7.0, 8.0, 9.0, 10.0]))
    assert priorities.leaves.tolist() == [8.0, 1.0, 6.0, 1.0, 5.0, 1.0]
    assert priorities.total == 22.0
