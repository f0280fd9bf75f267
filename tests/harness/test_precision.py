import os

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.precision import make_autocast, set_precision
from tests.conftest import make_config, make_dmcontrol_config
from tests.operations import fill, held, make_agent_and_replay
from tests.recipes import ATARI, DMCONTROL

CPU = torch.device("cpu")
RECIPES = {"atari": (ATARI, make_config), "dmcontrol": (DMCONTROL, make_dmcontrol_config)}
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward", "mkldnn_linear"}
# What moves or shapes values, adds them to others, or is a ReLU or GELU between two products.
BETWEEN = {
    "_to_copy", "add", "add_", "as_strided", "cat", "clone", "copy_", "detach", "div", "empty", "empty_like",
    "empty_strided", "expand", "gelu", "gelu_backward", "mul", "narrow", "new_empty", "new_zeros", "ones_like", "relu",
    "relu_", "select", "select_backward", "slice", "slice_backward", "split", "split_with_sizes", "squeeze", "sum", "t",
    "threshold_backward", "transpose", "unflatten", "unsqueeze", "view", "_unsafe_view", "view_as", "zeros", "permute",
    "reshape", "unbind", "stack", "zeros_like", "constant_pad_nd", "where", "fill_",
}  # fmt: skip


@pytest.fixture(autouse=True)
def restored():
    yield
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    set_precision("tf32", deterministic=False)


def test_what_a_product_on_a_gpu_is():
    backends = torch.backends
    for precision in ("fp32", "tf32", "bf16", "fp32"):
        set_precision(precision, deterministic=False)
        short = precision != "fp32"
        # Six getters, older and newer ones; the older raise where the two disagree.
        assert backends.cuda.matmul.fp32_precision == ("tf32" if short else "ieee")
        assert backends.cudnn.conv.fp32_precision == backends.cudnn.rnn.fp32_precision == ("tf32" if short else "none")
        assert torch.get_float32_matmul_precision() == ("high" if short else "highest")
        assert backends.cuda.matmul.allow_tf32 == backends.cudnn.allow_tf32 == short
        with backends.cudnn.flags(enabled=True):
            assert backends.mkldnn.matmul.fp32_precision == "ieee"
        assert not backends.cuda.matmul.allow_bf16_reduced_precision_reduction
        assert backends.cudnn.benchmark and backends.cudnn.benchmark_limit == 0
        assert not torch.are_deterministic_algorithms_enabled()
    set_precision("tf32", deterministic=True)
    assert torch.are_deterministic_algorithms_enabled() and not backends.cudnn.benchmark
    assert not torch.utils.deterministic.fill_uninitialized_memory
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_autocast_is_for_bf16_alone(precision):
    with make_autocast(precision, CPU)():
        assert torch.is_autocast_enabled("cpu") == (precision == "bf16")
        assert torch.ones(2, 2).mm(torch.ones(2, 2)).dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)


class Types(TorchDispatchMode):
    """Names of the operations that meet a bfloat16, and of those that do not."""

    def __init__(self):
        super().__init__()
        self.low, self.high = set(), set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [value for value in tree_leaves((args, result)) if isinstance(value, torch.Tensor)]
        low = any(tensor.dtype == torch.bfloat16 for tensor in tensors)
        (self.low if low else self.high).add(func.overloadpacket.__name__)
        return result


@pytest.mark.parametrize("name", RECIPES)
def test_norms_losses_and_optimisers_stay_float32(name):
    recipe, make_configuration = RECIPES[name]
    config = make_configuration("unused", "precision=bf16")
    agent, replay = make_agent_and_replay(recipe, config, CPU)
    fill(replay, config)
    with Types() as types:
        metrics = agent.update_on_device(replay, *agent.cycle[0])
    assert types.low & PRODUCTS and types.low <= PRODUCTS | BETWEEN, types.low - PRODUCTS - BETWEEN
    assert not types.high & {"convolution", "convolution_backward"}  # the encoders' are all in bfloat16
    tensors = [value for value in held(agent, replay).values() if isinstance(value, torch.Tensor)]
    tensors += [parameter.grad for parameter in agent.trained_parameters()] + list(metrics.values())
    assert {tensor.dtype for tensor in tensors if tensor.is_floating_point()} == {torch.float32, torch.float64}
