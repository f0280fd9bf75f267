"""A second stream of a GPU: work that runs beside other work of an update, in eager and in recorded updates alike.

Memory is safe by two rules. Tensors that the first stream lends live until `join`. A fork waits for all that the first
stream was given, so that it may reuse what an earlier fork made.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor


class Side:
    """Without a stream the work is done in place, in the same order."""

    def __init__(self, stream: torch.cuda.Stream | None = None):
        self._stream = stream
        self._forked = False

    @contextmanager
    def fork(self) -> Iterator[None]:
        """Work inside comes after all that was begun, and beside all that follows until `join`."""
        if self._stream is None:
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream())
        self._forked = True
        with torch.cuda.stream(self._stream):
            yield

    def join(self) -> None:
        """Waits for all forked work before the first stream goes on."""
        if self._forked:
            torch.cuda.current_stream().wait_stream(self._stream)
            self._forked = False


@contextmanager
def steps_beside(side: Side, steps: Sequence[tuple[Sequence[Tensor], Callable[[], None]]]) -> Iterator[None]:
    """Forks each step as soon as the backward pass inside has made the gradients of its leaves, or else after it.

    A step may change its leaves: whatever reads them in a backward pass makes their gradients at once.
    """
    waiting = [({id(leaf) for leaf in leaves}, step) for leaves, step in steps]

    def arrived(leaf: Tensor) -> None:
        for entry in list(waiting):
            missing, step = entry
            missing.discard(id(leaf))
            if not missing:
                waiting.remove(entry)
                with side.fork():
                    step()

    with ExitStack() as hooks:
        for leaves, _ in steps:
            for leaf in leaves:
                hooks.callback(leaf.register_post_accumulate_grad_hook(arrived).remove)
        yield
    for _, step in waiting:
        with side.fork():
            step()
