import pytest
import torch
from torch import nn

from harness.optimizers import clip_in_step, make_adam


def stepped(clip, max_norm):
    """Parameters after three steps, and the norm before the last clip."""
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(size)) for size in ((7, 5), (33,), ())]
    optimizer = make_adam(parameters, 1e-2, (0.9, 0.999), 1e-8, clipped=True)
    for _ in range(3):
        optimizer.zero_grad(set_to_none=True)
        sum((parameter.square() * torch.randn_like(parameter)).sum() for parameter in parameters).backward()
        norm = clip(optimizer, parameters, max_norm)
        optimizer.step()
    return parameters, norm


def before_the_step(optimizer, parameters, max_norm):
    return nn.utils.clip_grad_norm_(parameters, max_norm, foreach=True)


def in_the_step(optimizer, parameters, max_norm):
    return clip_in_step(optimizer, max_norm)


@pytest.mark.parametrize("max_norm", [0.1, 3.0, 1e6])
def test_a_clip_in_the_step_equals_one_before_it(max_norm):
    (actual, norm), (expected, expected_norm) = stepped(in_the_step, max_norm), stepped(before_the_step, max_norm)
    assert norm.equal(expected_norm) and norm > 1
    for parameter, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(parameter, other, rtol=1e-6, atol=1e-7)
        assert max_norm < 1e6 or parameter.equal(other)  # nothing is clipped: not a bit differs


def test_gradients_that_are_no_numbers_stay_so():
    parameter = nn.Parameter(torch.ones(3))
    optimizer = make_adam([parameter], 1e-2, (0.9, 0.999), 1e-8, clipped=True)
    parameter.grad = torch.tensor([1.0, float("nan"), 1.0])
    assert clip_in_step(optimizer, 10.0).isnan()
    optimizer.step()
    assert parameter.isnan().all()
