"""Operations of an update, counted where nothing is computed: on torch's meta device."""

from collections.abc import Mapping
from dataclasses import replace
from statistics import mean
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from harness.recipe import Method, Spaces

META = torch.device("meta")


def run_operations(method: Method, config: Any, spaces: Spaces, updates: Mapping[str, int]) -> float | None:
    """Floating-point operations of all updates of a run; see `operations_by_variant`. updates: their number by kind.

    A kind's updates have the variants that begin with its name, or else all variants of a cycle in equal shares.
    """
    counts = operations_by_variant(method, config, spaces)
    if counts is None:
        return None
    own = {kind: [count for variant, count in counts if variant[:1] == (kind,)] for kind in updates}
    everything = [count for _, count in counts]
    return sum(number * mean(own[kind] or everything) for kind, number in updates.items())


def operations_by_variant(method: Method, config: Any, spaces: Spaces) -> list[tuple[tuple, int]] | None:
    """The variants of a cycle of updates with their operations, two per multiply-add.

    Products and convolutions count, with their backward passes; elementwise work does not. None where updates are no
    functions of tensors alone.
    """
    counts = {}
    try:
        agent, replay = built_on_meta(method, config, spaces)
        for variant in dict.fromkeys(agent.cycle):
            with FlopCounterMode(display=False) as counter:
                agent.update_on_device(replay, *variant)
            counts[variant] = counter.get_total_flops()
    except RuntimeError:
        return None  # it reads values on the host
    return [(variant, counts[variant]) for variant in agent.cycle] or None


def built_on_meta(method: Method, config: Any, spaces: Spaces) -> tuple[Any, Any]:
    """An agent and its replay of any size, which take no memory and hold no values. Optimisers take no step."""
    config = replace(config.without_host_work, precision="fp32")  # torch has no autocast there
    with META:  # initial weights are made there, too
        agent, replay = method.make_agent(config, spaces, META), method.make_replay(config, spaces, META)
    for optimizer in agent.optimizers.values():
        optimizer.step = lambda: None  # torch has no fused Adam there
    return agent, replay
