"""Updates recorded once as CUDA graphs, and replayed without the host's work."""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

Update = Callable[..., dict[str, Tensor]]  # replay, variant... -> metrics

WARM_UPS = 3  # before a recording: libraries choose their kernels and allocate what they keep


def capture_updates(agent: Any, replay: Any) -> Callable[[Any, int, str], dict[str, Tensor]]:
    """Records `agent.update_on_device` on `replay` for each variant in `agent.cycle`; a stand-in for `agent.update`.

    Warming up and recording run on the current state; afterwards it is as before. From then on states must be
    loaded in place, as `load_state` does.
    """
    before = _on_host(agent.state()), replay.state()
    variants = tuple(dict.fromkeys(agent.cycle))
    recorded = record(agent.update_on_device, replay, variants, list(agent.random_streams()))
    agent.load_state(before[0])
    replay.load_state(before[1])

    def update(given: Any, step: int, kind: str) -> dict[str, Tensor]:
        return recorded(given, *agent.begin_update(given, step, kind))

    return update


def drawn_from(generators: Sequence[torch.Generator], work: Callable[[], object]) -> list[torch.Generator]:
    """Does `work`; returns the generators that it draws from."""
    before = [generator.get_state() for generator in generators]
    work()
    return [
        generator
        for generator, state in zip(generators, before, strict=True)
        if not torch.equal(generator.get_state(), state)
    ]


def _on_host(state: Any) -> Any:
    """A copy in the host's memory: on a small GPU a second one there could be what does not fit."""
    if isinstance(state, dict):
        return {key: _on_host(value) for key, value in state.items()}
    return state.to("cpu", copy=True) if isinstance(state, Tensor) else copy.deepcopy(state)


def record(update: Update, replay: Any, variants: Sequence[tuple], generators: Sequence[torch.Generator]) -> Update:
    """`update(replay, *variant)` as one graph for each variant, drawing from `generators` as it would itself.

    The metrics it returns are overwritten by the next replay of any variant.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        drawn = {variant: drawn_from(generators, partial(update, replay, *variant)) for variant in variants}
        for variant in [variant for _ in range(WARM_UPS - 1) for variant in variants]:
            update(replay, *variant)
    torch.cuda.current_stream().wait_stream(side)
    graphs, metrics, pool = {}, {}, torch.cuda.graph_pool_handle()
    for variant in variants:
        graphs[variant] = torch.cuda.CUDAGraph()
        if torch.__version__ < (2, 14):  # later ones find the generators themselves, and warn
            for generator in drawn[variant]:  # each costs a replay two kernels
                graphs[variant].register_generator_state(generator)
        # Only this thread's calls can spoil the recording: a tracker's thread may go on.
        with torch.cuda.graph(graphs[variant], pool=pool, capture_error_mode="thread_local"):
            metrics[variant] = update(replay, *variant)

    def replayed(given: Any, *variant) -> dict[str, Tensor]:
        assert given is replay, "the graphs read another replay"
        graphs[variant].replay()
        return metrics[variant]

    return replayed
