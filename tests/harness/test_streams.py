"""Schedules on two streams, as a CPU shows them: the order of the work, and who touches which memory."""

from collections import defaultdict
from contextlib import contextmanager

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.shadow import ShadowedLinear, give_shadows
from harness.streams import steps_beside
from tests.conftest import make_config, make_dmcontrol_config
from tests.operations import fill, make_agent_and_replay
from tests.recipes import ATARI, DMCONTROL


class Lanes(TorchDispatchMode):
    """Stands for a `Side`, does its work in place, and fails on what two streams would not allow.

    Until a join neither stream writes what the other touches, and what the first lends is not freed.
    """

    def __init__(self):
        super().__init__()
        self.forked_at = None  # time of the fork whose work is under way
        self.events, self.memory, self.of_side = [], {}, set()
        self.touched = defaultdict(list)  # since the last join, by place: time, forked_at, written

    @contextmanager
    def fork(self):
        self.forked_at = len(self.events)
        self.events.append("fork")
        yield
        self.events.append("end")
        self.forked_at = None

    def join(self):
        lent = {place for place, times in self.touched.items() if any(forked is not None for _, forked, _ in times)}
        assert not any(self.memory[place].expired() for place in lent - self.of_side), "freed beside its reader"
        self.touched.clear()
        self.events.append("join")

    def places(self, values):
        storages = [each.untyped_storage() for each in tree_leaves(values) if isinstance(each, torch.Tensor)]
        for storage in storages:  # a weak reference keeps the address from being given again
            self.memory.setdefault(storage._cdata, StorageWeakRef(storage))
        return {storage._cdata for storage in storages}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        read, known = self.places((args, kwargs)), set(self.memory)
        result = func(*args, **kwargs)
        values = {each.name: value for each, value in zip(func._schema.arguments, args, strict=False)} | kwargs
        changed = [each.name for each in func._schema.arguments if each.alias_info and each.alias_info.is_write]
        new = self.places(result) - known
        written = self.places([values.get(name) for name in changed]) | new
        self.of_side |= new if self.forked_at is not None else set()
        now = len(self.events)
        self.events.append(func.overloadpacket.__name__)
        for place in read | written:
            for time, forked_at, wrote in self.touched[place]:
                ordered = (forked_at is None) == (self.forked_at is None) or forked_at is None and time < self.forked_at
                assert ordered or not (wrote or place in written), f"{func} races with {self.events[time]}"
            self.touched[place].append((now, self.forked_at, place in written))
        return result


def updated(recipe, make_configuration, shadowed, *overrides):
    config = make_configuration("unused", *overrides)
    agent, replay = make_agent_and_replay(recipe, config, torch.device("cpu"))
    fill(replay, config)
    if shadowed:
        layers = [layer for layer in agent.auxiliary.owned.modules() if isinstance(layer, ShadowedLinear)]
        give_shadows(layers, agent.optimizers["decoder"])
    agent.update(replay, 60, "update")
    agent.side = lanes = Lanes()
    with lanes:
        agent.update(replay, 61, "update")
    return agent, lanes


@pytest.mark.parametrize("aux", ["none", "mlr", "spr", "curl"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_rainbow_forks_its_target_and_the_auxiliary_s_steps(aux, precision):
    """The steps begin within the backward pass: convolutions' gradients come after the first."""
    shadowed = precision == "bf16" and aux == "mlr"
    agent, lanes = updated(ATARI, make_config, shadowed, f"auxiliary={aux}", f"precision={precision}")
    forks = [number for number, event in enumerate(lanes.events) if event == "fork"]
    assert len(forks) == len(agent.optimizers) and lanes.events.count("join") == 2
    before, after = lanes.events[: forks[0]], lanes.events[forks[0] :]
    assert "convolution" not in before and after.index("end") < after.index("convolution_backward")
    if aux == "mlr":
        within = lanes.events[forks[1] : lanes.events.index("end", forks[1])]
        assert "_fused_adam_" in within and "convolution" not in within
        assert "convolution_backward" not in lanes.events[: forks[1]]


@pytest.mark.parametrize("aux", ["none", "mlr"])
def test_sac_forks_its_target(aux):
    _, lanes = updated(DMCONTROL, make_dmcontrol_config, False, f"auxiliary={aux}")
    fork, end, join = (lanes.events.index(event) for event in ("fork", "end", "join"))
    assert "convolution" in lanes.events[fork:end] and "convolution" in lanes.events[end:join]
    assert "convolution_backward" not in lanes.events[:join]


def test_a_step_without_all_gradients_comes_behind_the_pass():
    leaves = [torch.ones(2, requires_grad=True) for _ in range(3)]
    lanes, steps = Lanes(), []
    with steps_beside(lanes, [(leaves[:1], lambda: steps.append("whole")), (leaves, lambda: steps.append("part"))]):
        (leaves[0] * leaves[1]).sum().backward()
        assert steps == ["whole"]
    assert steps == ["whole", "part"] and lanes.events == ["fork", "end"] * 2
    leaves[0].sum().backward()
    assert len(steps) == 2  # no hook is left


def test_what_two_streams_would_not_allow_is_found():
    value, other = torch.ones(3), torch.ones(3)
    lanes = Lanes()
    with lanes:
        with lanes.fork():
            value.add_(1)
        other.add_(1)
        with lanes.fork():
            other.add_(1)  # behind the fork, which waited for it
        with pytest.raises(AssertionError, match=r"aten\.mul\.Tensor races with add_"):
            value * 2
        lanes.join()
        value * 2
        temporary = value * 3
        with lanes.fork():
            temporary * 2
        del temporary
        with pytest.raises(AssertionError, match="freed"):
            lanes.join()
