"""Updates recorded once as CUDA graphs, and replayed without the host's work."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from harness.fused import Compute, reason_against
from harness.optimizers import adam_state
from harness.streams import Side

Update = Callable[..., dict[str, Tensor]]  # replay, variant... -> metrics
RunUpdate = Callable[[Any, int, str], dict[str, Tensor]]  # replay, step, kind -> metrics

WARM_UPS = 3  # before a recording: libraries choose their kernels and allocate what they keep
SLOTS = 256
LEAST_MOMENT = 1e-3  # norm of an optimiser's first moments, below which rounding may be all of them


@dataclass
class Recording:
    """An update as a graph for each variant."""

    replay: Any
    graphs: dict[tuple, torch.cuda.CUDAGraph]
    metrics: dict[tuple, dict[str, Tensor]]
    pool: Any  # memory of the graphs

    def __call__(self, given: Any, *variant: Any) -> dict[str, Tensor]:
        assert given is self.replay, "the graphs read another replay"
        self.graphs[variant].replay()
        return self.metrics[variant]


def capture_updates(agent: Any, replay: Any) -> RunUpdate:
    """Records `agent.update_on_device` on `replay` for each variant in `agent.cycle`; a stand-in for `agent.update`.

    Warming up and recording run on the current state; afterwards it is as before. From then on states must be
    loaded in place, as `load_state` does.
    """
    with _put_back(agent, replay):
        recorded = _record(agent, replay)
    return _after_begin(agent, recorded)


def capture_faster(
    agent: Any, replay: Any, precision: str, seconds: Callable[[Compute], float]
) -> tuple[RunUpdate, str]:
    """`capture_updates` on one stream, or on two where the gradients agree and an update takes less time.

    The comparison reads random pictures, which are gone afterwards.
    Returns the reason against two streams as well, in words. It is empty where they are used.
    """
    variants, one_stream = _variants(agent), agent.side
    on_two: list[Recording] = []

    def moments(recorded: Update) -> list[Tensor]:
        """Adam's first moments after an update of each variant, all from the same state: the gradients, scaled."""
        found = []
        for variant in variants:
            put_back()
            recorded(replay, *variant)
            entries = [adam_state(optimizer).values() for optimizer in agent.optimizers.values()]
            found += [torch.cat([entry["exp_avg"].flatten() for entry in each]) for each in entries]
        return found

    def moments_on_two() -> list[Tensor]:
        agent.side = Side(torch.cuda.Stream())
        on_two.append(_record(agent, replay, on_one))
        return moments(on_two[0])

    def cycle(recorded: Update) -> list[Tensor]:
        return [value for variant in variants for value in recorded(replay, *variant).values()]

    with _put_back(agent, replay) as put_back, _pictures(replay.frames.frames[:-1]):
        on_one = _record(agent, replay)
        try:
            reason = reason_against(
                moments_on_two,
                partial(moments, on_one),
                precision,
                seconds,
                floor=LEAST_MOMENT,
                timed=(lambda: cycle(on_two[0]), partial(cycle, on_one)),
            )
        except torch.OutOfMemoryError:
            reason = "two do not fit into the GPU's memory"
    if reason:
        agent.side = one_stream
    return _after_begin(agent, on_one if reason else on_two[0]), reason


def _variants(agent: Any) -> tuple:
    return tuple(dict.fromkeys(agent.cycle))


def _record(agent: Any, replay: Any, other: Recording | None = None) -> Recording:
    return record(agent.update_on_device, replay, _variants(agent), list(agent.random_streams()), other)


def _after_begin(agent: Any, recorded: Update) -> RunUpdate:
    """A recording behind the host's share of an update."""

    def update(given: Any, step: int, kind: str) -> dict[str, Tensor]:
        return recorded(given, *agent.begin_update(given, step, kind))

    return update


@contextmanager
def _put_back(agent: Any, replay: Any) -> Iterator[Callable[[], None]]:
    """Gives a function that loads today's state of both in place, and calls it at the end."""
    before = _on_host(agent.state()), replay.state()

    def put_back() -> None:
        agent.load_state(before[0])
        replay.load_state(before[1])

    yield put_back
    put_back()


@contextmanager
def _pictures(frames: Tensor) -> Iterator[None]:
    """Random bytes in the first and the last slots of `frames` [N, ...], of which an empty replay's samples are."""
    generator = torch.Generator(frames.device).manual_seed(0)
    ends = frames[:SLOTS], frames[-SLOTS:]
    before = [end.clone() for end in ends]
    for end in ends:
        end.random_(0, 256, generator=generator)
    yield
    for end, values in zip(ends, before, strict=True):
        end.copy_(values)


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


def record(
    update: Update,
    replay: Any,
    variants: Sequence[tuple],
    generators: Sequence[torch.Generator],
    other: Recording | None = None,
) -> Recording:
    """`update(replay, *variant)` as one graph for each variant, drawing from `generators` as it would itself.

    The graphs take the memory of the `other` recording, which never runs beside this one. The metrics are overwritten
    by the next replay of any variant.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        drawn = {variant: drawn_from(generators, partial(update, replay, *variant)) for variant in variants}
        for variant in [variant for _ in range(WARM_UPS - 1) for variant in variants]:
            update(replay, *variant)
    torch.cuda.current_stream().wait_stream(side)
    graphs, metrics, pool = {}, {}, other.pool if other else torch.cuda.graph_pool_handle()
    for variant in variants:
        graphs[variant] = torch.cuda.CUDAGraph()
        if torch.__version__ < (2, 14):  # later ones find the generators themselves, and warn
            for generator in drawn[variant]:  # each costs a replay two kernels
                graphs[variant].register_generator_state(generator)
        # Only this thread's calls can spoil the recording: a tracker's thread may go on.
        with torch.cuda.graph(graphs[variant], pool=pool, capture_error_mode="thread_local"):
            metrics[variant] = update(replay, *variant)
    return Recording(replay, graphs, metrics, pool)
