"""Categorical losses against a double loop over atoms, their clamps, and the reference file."""

import math

import pytest
import torch

from atari.losses import (
    categorical_kl,
    categorical_loss,
    expected_value,
    of_action,
    project_distribution,
    support,
)
from tests.golden.atari_a_b_c import replay_c
from tests.golden.check import DATA, assert_all

CPU = torch.device("cpu")
V_MIN, V_MAX = -10.0, 10.0


def atoms_of(count: int) -> torch.Tensor:
    return support(V_MIN, V_MAX, count, CPU)


def random_probs(rows: int, atoms: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, atoms, generator=torch.Generator().manual_seed(seed)).mul(3).softmax(-1)


def project_by_loop(probs, returns, done, discount, atoms) -> torch.Tensor:
    """Every atom's probability goes to its two neighbours by distance: Python floats, one atom at a time."""
    spacing = (V_MAX - V_MIN) / (atoms - 1)
    projected = [[0.0] * atoms for _ in returns]
    for row, (start, end) in enumerate(zip(returns, done, strict=True)):
        for source in range(atoms):
            value = start + (0.0 if end else discount * (V_MIN + source * spacing))
            position = (min(max(value, V_MIN), V_MAX) - V_MIN) / spacing
            below = min(int(math.floor(position)), atoms - 2)
            projected[row][below] += float(probs[row, source]) * (below + 1 - position)
            projected[row][below + 1] += float(probs[row, source]) * (position - below)
    return torch.tensor(projected)


def test_reference_losses():
    assert_all(replay_c(DATA / "atari"))


@pytest.mark.parametrize(("atoms", "discount"), [(51, 0.99**10), (11, 0.9), (2, 0.99), (21, 1.0)])
def test_projection_equals_the_double_loop(atoms, discount):
    spacing = (V_MAX - V_MIN) / (atoms - 1)
    on_atoms = [V_MIN, V_MAX, V_MIN + spacing, V_MAX - spacing]
    returns = [0.0, 0.37, -2.2, *on_atoms, 9.7, -9.7, 25.0, -25.0, 1e4, -1e4] * 2
    done = [False] * (len(returns) // 2) + [True] * (len(returns) // 2)
    probs = random_probs(len(returns), atoms)
    target = project_distribution(probs, torch.tensor(returns), torch.tensor(done), discount, atoms_of(atoms))
    torch.testing.assert_close(target, project_by_loop(probs, returns, done, discount, atoms), rtol=0, atol=2e-6)
    torch.testing.assert_close(target.sum(-1), torch.ones(len(returns)), rtol=0, atol=1e-5)
    assert (target >= 0).all()


def test_a_done_return_that_is_an_atom_takes_all_the_probability():
    atoms = atoms_of(51)
    done = torch.ones(51, dtype=torch.bool)
    target = project_distribution(random_probs(51, 51), atoms, done, 0.99, atoms)
    torch.testing.assert_close(target, torch.eye(51), rtol=0, atol=2e-6)


def test_returns_beyond_the_support_go_to_its_ends():
    atoms, probs = atoms_of(11), random_probs(2, 11)
    target = project_distribution(probs, torch.tensor([30.0, -30.0]), torch.tensor([False, False]), 0.99, atoms)
    torch.testing.assert_close(target, torch.eye(11)[[10, 0]], rtol=0, atol=1e-6)


def test_without_reward_and_discount_the_projection_is_the_identity():
    probs = random_probs(6, 51)
    target = project_distribution(probs, torch.zeros(6), torch.zeros(6, dtype=torch.bool), 1.0, atoms_of(51))
    torch.testing.assert_close(target, probs, rtol=0, atol=1e-6)


def test_the_projection_keeps_the_mean_inside_the_support():
    atoms, probs = atoms_of(51), random_probs(8, 51)
    returns, discount = torch.linspace(-1, 1, 8), 0.9
    target = project_distribution(probs, returns, torch.zeros(8, dtype=torch.bool), discount, atoms)
    torch.testing.assert_close(expected_value(target, atoms), returns + discount * expected_value(probs, atoms))


def test_support_and_expected_value():
    atoms = atoms_of(5)
    assert atoms.tolist() == [-10, -5, 0, 5, 10]
    assert expected_value(torch.tensor([[[0, 0, 0, 1.0, 0], [0.5, 0, 0, 0, 0.5]]]), atoms).tolist() == [[5, 0]]


def test_of_action_picks_one_distribution_per_row_and_sends_the_gradient_there_only():
    distributions = torch.arange(24.0).view(3, 4, 2).requires_grad_()
    picked = of_action(distributions, torch.tensor([2, 0, 3]))
    assert picked.tolist() == [[4, 5], [8, 9], [22, 23]]
    picked.sum().backward()
    assert distributions.grad.sum(-1).tolist() == [[0, 0, 2, 0], [2, 0, 0, 0], [0, 0, 0, 2]]


def test_the_loss_is_the_cross_entropy_to_the_unclamped_target():
    log_probs = random_probs(2, 4).log()
    target = torch.tensor([[0, 1.0, 0, 0], [0.25, 0.25, 0.25, 0.25]])
    expected = torch.stack([-log_probs[0, 1], -log_probs[1].mean()])
    torch.testing.assert_close(categorical_loss(log_probs, target), expected)


def test_kl_raises_the_targets_zeros_and_carries_no_gradient():
    log_probs = random_probs(1, 4).log().requires_grad_()
    kl = categorical_kl(log_probs, torch.tensor([[0, 1.0, 0, 0]]), 1e-6, 1e6)
    logs = log_probs[0].tolist()
    expected = -logs[1] + sum(1e-6 * (math.log(1e-6) - logs[atom]) for atom in (0, 2, 3))
    assert kl.item() == pytest.approx(expected, rel=1e-6)
    assert not kl.requires_grad


def test_kl_is_clamped_on_both_sides():
    same = random_probs(1, 5)
    assert categorical_kl(same.log(), same, 1e-6, 1e6).item() == pytest.approx(1e-6)
    impossible = torch.tensor([[0.0, -1e8, -1e8]])
    assert categorical_kl(impossible, torch.tensor([[0, 1.0, 0]]), 1e-6, 1e6).item() == pytest.approx(1e6)
