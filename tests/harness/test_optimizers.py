import subprocess
import sys

import pytest
import torch
from torch import nn

from harness.optimizers import clip_in_step, make_adam
from tests.conftest import ROOT


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


UPDATE = """
import sys, torch
from harness.optimizers import make_adam
from harness.precision import set_precision
set_precision("tf32", deterministic=False)
weight = torch.nn.Parameter(torch.ones(3))
adam = make_adam([weight], lr=0.1, betas=(0.9, 0.999), eps=1e-8)
adam.zero_grad()
weight.sum().backward()
adam.step()
print(weight.tolist() != [1.0, 1.0, 1.0], "torch._dynamo" in sys.modules)
"""


def test_a_step_is_torchs_own_and_leaves_its_compiler_alone():
    done = subprocess.run([sys.executable, "-c", UPDATE], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "True False\n", done.stderr
    torch.manual_seed(0)
    start, settings = torch.randn(7), {"lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-5}
    weights = [nn.Parameter(start.clone()) for _ in range(2)]
    for adam, weight in ((make_adam([weights[0]], **settings), weights[0]),
                         (torch.optim.Adam([weights[1]], fused=True, **settings), weights[1])):  # fmt: skip
        for _ in range(3):
            adam.zero_grad()
            weight.pow(3).sum().backward()
            adam.step()
    assert torch.equal(*weights)
