import pytest
import torch
from torch import nn

from mlr.momentum import frozen_copy, momentum_update


def online_module(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 4))


def test_frozen_copy_has_equal_values_and_memory_of_its_own():
    online = online_module()
    target = frozen_copy(online)
    assert not target.training and online.training
    for copied, original in zip(target.parameters(), online.parameters(), strict=True):
        assert copied.equal(original) and copied.data_ptr() != original.data_ptr()
        assert not copied.requires_grad and original.requires_grad


def test_frozen_copy_gets_no_gradient():
    online = online_module()
    target = frozen_copy(online)
    x = torch.randn(2, 2, 4, 4)
    (online(x) - target(x)).square().sum().backward()
    assert all(parameter.grad is None for parameter in target.parameters())
    assert all(parameter.grad is not None for parameter in online.parameters())


@pytest.mark.parametrize("tau", [0.0, 0.05, 0.5, 0.9, 1.0])
def test_update_against_a_loop(tau):
    online, target = online_module(0), frozen_copy(online_module(1))
    expected = [
        [(1 - tau) * a + tau * b for a, b in zip(old.flatten().tolist(), new.flatten().tolist(), strict=True)]
        for old, new in zip(target.parameters(), online.parameters(), strict=True)
    ]
    before = [parameter.clone() for parameter in online.parameters()]
    addresses = [parameter.data_ptr() for parameter in target.parameters()]
    momentum_update(target, online, tau)
    for parameter, values in zip(target.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.flatten(), torch.tensor(values), rtol=1e-6, atol=1e-7)
        assert not parameter.requires_grad
    assert [parameter.data_ptr() for parameter in target.parameters()] == addresses
    assert all(parameter.equal(value) for parameter, value in zip(online.parameters(), before, strict=True))


def test_tau_of_one_copies_exactly():
    online, target = online_module(0), frozen_copy(online_module(1))
    with torch.no_grad():
        for scale, parameter in zip([1e-20, 1e10, 1.0, 1e-6, 1e20, 1e3], online.parameters(), strict=True):
            parameter.mul_(scale)
    momentum_update(target, online, 1.0)
    for copied, original in zip(target.parameters(), online.parameters(), strict=True):
        assert copied.equal(original)


def test_buffers_stay():
    online, target = online_module(), frozen_copy(online_module())
    online[1].running_mean.fill_(3.0)
    momentum_update(target, online, 1.0)
    assert target[1].running_mean.equal(torch.zeros(3))


def test_a_module_without_parameters_is_allowed():
    momentum_update(frozen_copy(nn.Identity()), nn.Identity(), 0.5)


def test_modules_of_different_shape_are_refused():
    with pytest.raises(RuntimeError):
        momentum_update(frozen_copy(nn.Linear(2, 2)), nn.Linear(2, 2, bias=False), 0.5)
