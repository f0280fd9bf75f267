"""Rendered episodes as mp4 files, written while they are played."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np


@contextmanager
def video_writer(path: Path, fps: float, enlarge: int) -> Iterator[Callable[[np.ndarray], None]]:
    """Gives a function that appends a frame uint8 [H, W, 3], each pixel drawn as `enlarge` x `enlarge`.

    The file appears under `path` when it is complete.
    """
    import imageio.v2 as imageio  # only a run that records needs it

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}")  # the ending tells the encoder the format
    with imageio.get_writer(part, fps=fps, codec="libx264", quality=8, macro_block_size=2) as writer:
        yield lambda frame: writer.append_data(frame.repeat(enlarge, axis=0).repeat(enlarge, axis=1))
    part.replace(path)
