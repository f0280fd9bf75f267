"""What a piece of tensor code does, operation by operation, to tell whether it could be captured once and replayed."""

import functools
from collections.abc import Iterator
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.checkpoint import flatten
from harness.recipe import Spaces

# Operations whose result the host waits for, or whose shape depends on data.
FORBIDDEN = {
    "_local_scalar_dense",
    "item",
    "nonzero",
    "masked_select",
    "is_nonzero",
    "equal",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "repeat_interleave",
    "bincount",
    "histc",
    "pin_memory",
    # Where kernels have to be deterministic, these bring a table from the host, or have no such kernel.
    "scatter_add",
    "scatter_add_",
    "scatter_reduce",
    "scatter_reduce_",
    "put_",
}
# The same where no operation shows it.
READ_BY_HOST = {
    Tensor.cpu,
    Tensor.item,
    Tensor.tolist,
    Tensor.numpy,
    Tensor.__array__,
    Tensor.__bool__,
    Tensor.__int__,
    Tensor.__float__,
    Tensor.__index__,
}
WRITTEN_BY_HOST = {torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy, Tensor.pin_memory}


# Packages whose objects `held` looks into.
REACHED = ("atari", "auxiliaries", "dmcontrol", "harness", "mlr", "mwm", "torch")


class Calls(TorchFunctionMode):
    """Fails on calls of some functions."""

    def __init__(self, forbidden: set):
        super().__init__()
        self._forbidden = forbidden

    def __torch_function__(self, func, types, args=(), kwargs=None):
        assert func not in self._forbidden, func
        return func(*args, **(kwargs or {}))


class OperationRecorder(TorchDispatchMode):
    """Records names and result shapes; fails on what waits for the device or has a shape that depends on data.

    With `device`, a kind such as "meta", every tensor must be there, and none may come from the host: it would be a
    copy, or a value that a recording keeps for good.
    """

    def __init__(self, device: str | None = None):
        super().__init__()
        self.calls = []
        self._device = device
        self._host_calls = Calls(READ_BY_HOST if device is None else READ_BY_HOST | WRITTEN_BY_HOST)

    def __enter__(self):
        self._host_calls.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._host_calls.__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        assert name not in FORBIDDEN, name
        if name == "index":
            assert all(index is None or index.dtype != torch.bool for index in args[1]), "boolean indexing"
        if name == "cumsum":
            assert not args[0].is_floating_point(), "a GPU adds up such a scan in another order each time"
        if self._device is not None:
            tensors = [value for value in tree_leaves((args, kwargs, result)) if isinstance(value, Tensor)]
            kinds = {tensor.device.type for tensor in tensors}
            assert kinds <= {self._device}, f"{name} on {kinds}"
        self.calls.append((name, tuple(result.shape) if isinstance(result, torch.Tensor) else None))
        return result


# What an agent or a replay is made of


def held(*roots: Any) -> dict[str, Tensor | torch.Generator | int | float | str | bool | None]:
    """Every tensor, generator and plain value within reach of the roots, by its path.

    Reach goes through attributes, containers, bound methods and what a function closes over, as far as the objects are
    the project's or torch's; gradients are not attributes in this sense.
    """
    found: dict[str, Any] = {}
    seen = set()

    def visit(value: Any, path: str) -> None:
        if isinstance(value, (Tensor, torch.Generator, int, float, str, type(None))):
            found[path] = value
            return
        if id(value) in seen:
            return
        seen.add(id(value))
        for name, part in parts(value):
            visit(part, f"{path}.{name}")

    for number, root in enumerate(roots):
        visit(root, f"{type(root).__name__}{number}")
    return found


def parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for number, (key, part) in enumerate(value.items()):
            yield str(number if isinstance(key, Tensor) else key), part
    elif isinstance(value, (list, tuple)):
        yield from ((str(number), part) for number, part in enumerate(value))
    elif isinstance(value, functools.partial):
        yield from (("func", value.func), ("args", value.args), ("keywords", value.keywords))
    elif isinstance(value, MethodType):
        yield "self", value.__self__
    elif isinstance(value, FunctionType):
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            yield name, cell.cell_contents
    elif type(value).__module__.split(".")[0] in REACHED:
        yield from getattr(value, "__dict__", {}).items()


def places(*roots: Any) -> dict[str, Any]:
    """Where each tensor and generator lives that is in reach of the roots: what a recording reads and writes."""
    return {
        path: (value.untyped_storage().data_ptr(), value.storage_offset(), value.shape, value.stride(), value.dtype)
        if isinstance(value, Tensor)
        else id(value)
        for path, value in held(*roots).items()
        if isinstance(value, (Tensor, torch.Generator))
    }


def plain_values(*roots: Any) -> dict[str, Any]:
    """The numbers and names in reach of the roots: what a recording would not count on."""
    return {path: value for path, value in held(*roots).items() if not isinstance(value, (Tensor, torch.Generator))}


# Agents and replays for updates without an environment


def assert_same(state: dict, other: dict) -> None:
    """Two nested states hold equal tensors and values."""
    ours, theirs = flatten(state), flatten(other)
    assert ours.keys() == theirs.keys()
    for path, value in ours.items():
        assert torch.equal(value, theirs[path]) if isinstance(value, Tensor) else value == theirs[path], path


def make_agent_and_replay(recipe, config, device: torch.device):
    """An agent and its empty replay."""
    spaces = make_spaces(config)
    return recipe.method.make_agent(config, spaces, device), recipe.method.make_replay(config, spaces, device)


def make_spaces(config) -> Spaces:
    """Six actions, or one number, as the method has it."""
    actions = Discrete(6) if config.method == "rainbow" else Box(-1, 1, (1,), np.float32)
    return Spaces(Box(0, 255, config.observation_shape, np.uint8), actions)


def fill(replay, config, steps: int = 60, episode: int = 20) -> None:
    """Stores random steps, in episodes of `episode` steps."""
    size, stack, random = config.environment.image_size, config.environment.frame_stack, np.random.default_rng(0)
    atari = config.method == "rainbow"
    channels = stack if atari else 3 * stack
    frames = random.integers(0, 256, (steps + 1, channels, size, size), dtype=np.uint8)
    for step in range(steps):
        action = int(random.integers(6)) if atari else random.uniform(-1, 1, 1).astype(np.float32)
        end = step % episode == episode - 1
        replay.begin_step()
        terminated, info = end and step > episode, {"life_lost": False}
        replay.store(frames[step], action, float(random.random()), terminated, end, frames[step + 1], info)
