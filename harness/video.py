"""Rendered episodes as mp4 files, written while they are played."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import gymnasium
import numpy as np

SMALLEST_HEIGHT = 300  # lines; smaller pictures are enlarged, for people


@contextmanager
def episode_video(path: Path) -> Iterator[Callable[[gymnasium.Env], None]]:
    """Gives a function that appends what an environment renders, at the environment's own rate."""
    with ExitStack() as stack:
        append = None

        def film(environment: gymnasium.Env) -> None:
            nonlocal append
            picture = environment.render()
            if append is None:
                fps, enlarge = environment.metadata["render_fps"], -(-SMALLEST_HEIGHT // picture.shape[0])
                append = stack.enter_context(video_writer(path, fps, enlarge))
            append(picture)

        yield film


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
