import pytest
import torch

from mwm.policy import truncated_entropy, truncated_sample


def policy():
    torch.manual_seed(0)
    mean = (torch.rand(40, dtype=torch.float64) * 1.8 - 0.9).requires_grad_()
    std = (0.1 + 0.9 * torch.rand(40, dtype=torch.float64)).requires_grad_()
    return mean, std, torch.rand(40, dtype=torch.float64)


def test_the_pathwise_gradient_is_the_slope_of_the_sample():
    mean, std, uniforms = policy()
    assert torch.autograd.gradcheck(lambda m, s: truncated_sample(m, s, uniforms, "pathwise"), (mean, std))


def test_the_released_gradient_leaves_the_bounds_out():
    mean, std, uniforms = policy()
    action = truncated_sample(mean, std, uniforms, "released")
    by_mean, by_std = torch.autograd.grad(action.sum(), (mean, std))
    assert torch.equal(by_mean, torch.ones_like(mean))
    torch.testing.assert_close(by_std, (action.detach() - mean.detach()) / std.detach())


def test_samples_follow_the_distribution():
    """Against draws of a normal, of which those outside the bounds are thrown away."""
    torch.manual_seed(1)
    mean, std = torch.tensor(0.7), torch.tensor(0.6)
    ours = truncated_sample(mean.expand(200_000), std.expand(200_000), torch.rand(200_000).double(), "released")
    normal = torch.randn(1_000_000) * std + mean
    kept = normal[normal.abs() <= 1]
    assert ours.abs().max() <= 1
    quantiles = torch.linspace(0.05, 0.95, 10)
    torch.testing.assert_close(ours.quantile(quantiles), kept[:200_000].quantile(quantiles), atol=0.01, rtol=0)


@pytest.mark.parametrize("mean, std", [(0.0, 1.0), (0.9, 0.1), (-0.5, 0.4)])
def test_the_entropy_is_the_integral(mean, std):
    grid = torch.linspace(-1, 1, 200_001, dtype=torch.float64)
    density = (-((grid - mean) / std).square() / 2).exp()
    density = density / torch.trapezoid(density, grid)
    integral = -torch.trapezoid(density * density.log(), grid)
    entropy = truncated_entropy(torch.tensor([mean]).double(), torch.tensor([std]).double())
    torch.testing.assert_close(entropy, integral, atol=1e-6, rtol=1e-6)
