"""Losses of soft actor-critic against torch's distributions and plain loops, and the learning rate's schedule."""

import math

import pytest
import torch
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution

from dmcontrol.losses import (
    actor_loss,
    critic_loss,
    learning_rate_factor,
    q_target,
    squashed_sample,
    temperature_loss,
)
from tests.golden.check import DATA, assert_all
from tests.golden.dmcontrol_f import replay_f

B, A, FLOOR = 6, 3, 1e-6


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_reference_schedule():
    assert_all(replay_f(DATA / "dmcontrol"))


@pytest.mark.parametrize(("floor", "tolerance"), [(FLOOR, 1e-3), (0.0, 1e-5)])
def test_log_probability_is_the_squashed_normal_s(floor, tolerance):
    mean, log_std, noise = torch.randn(B, A), torch.randn(B, A) - 1, torch.randn(B, A)
    action, log_prob = squashed_sample(mean, log_std, noise, floor)
    squashed = TransformedDistribution(Normal(mean.double(), log_std.double().exp()), TanhTransform())
    expected = Independent(squashed, 1).log_prob(action.double())
    torch.testing.assert_close(action, (mean + noise * log_std.exp()).tanh())
    torch.testing.assert_close(log_prob.double(), expected, rtol=0, atol=tolerance)


def test_a_saturated_action_has_a_finite_log_probability_and_gradient():
    mean = torch.tensor([[50.0, -50.0]], requires_grad=True)
    action, log_prob = squashed_sample(mean, torch.zeros(1, 2), torch.zeros(1, 2), FLOOR)
    assert action.tolist() == [[1.0, -1.0]]
    expected = -math.log(2 * math.pi) - 2 * math.log(1e-6)
    assert log_prob.item() == pytest.approx(expected, rel=1e-5)
    log_prob.sum().backward()
    assert torch.isfinite(mean.grad).all()


def test_targets_are_soft_and_stop_at_a_termination():
    reward, log_prob, next_q = torch.randn(B), torch.randn(B), torch.randn(2, B)
    bootstrap = torch.tensor([1.0, 0, 1, 1, 0, 1])
    target = q_target(reward, bootstrap, next_q, log_prob, torch.tensor(0.3, dtype=torch.float64), 0.9)
    for i in range(B):
        value = min(next_q[0, i].item(), next_q[1, i].item()) - 0.3 * log_prob[i].item()
        expected = reward[i].item() + (0.9 * value if bootstrap[i] else 0)
        assert target[i].item() == pytest.approx(expected, abs=1e-6)
    assert target.dtype == torch.float32


def test_critic_loss_sums_the_heads_and_averages_the_batch():
    q, target = torch.randn(2, B), torch.randn(B)
    expected = sum((q[head, i] - target[i]).item() ** 2 / B for head in range(2) for i in range(B))
    assert critic_loss(q, target).item() == pytest.approx(expected, rel=1e-5)


def test_actor_loss_takes_the_smaller_value():
    q, log_prob = torch.randn(2, B), torch.randn(B)
    expected = sum(0.3 * log_prob[i].item() - min(q[0, i].item(), q[1, i].item()) for i in range(B)) / B
    assert actor_loss(q, log_prob, torch.tensor(0.3)).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("entropy", "grows"), [(-5.0, True), (1.0, False)])
def test_temperature_grows_below_the_target_entropy_only(entropy, grows):
    log_temperature = torch.tensor(-2.0, dtype=torch.float64, requires_grad=True)
    log_prob = torch.full((B,), -entropy, requires_grad=True)
    loss = temperature_loss(log_temperature, log_prob, target_entropy=-2.0)
    loss.backward()
    assert loss.item() == pytest.approx(math.exp(-2) * (entropy + 2), rel=1e-5)
    assert (log_temperature.grad < 0) == grows  # a step goes against the gradient
    assert log_prob.grad is None


def test_learning_rate_rises_then_falls():
    updates = torch.tensor([0, 5, 10, 40])
    factors = learning_rate_factor(updates, warmup=10, start=0.2)
    torch.testing.assert_close(factors, torch.tensor([0.2, 0.6, 1.0, 0.5], dtype=torch.float64))
    assert learning_rate_factor(updates, warmup=0, start=0.2).tolist() == [1, 1, 1, 1]
