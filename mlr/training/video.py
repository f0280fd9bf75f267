"""Rendered episodes as mp4 files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np


def write_video(path: Path, frames: Sequence[np.ndarray], fps: float, enlarge: int) -> Path:
    """Writes uint8 [H, W, 3] frames, each pixel drawn as `enlarge` x `enlarge`."""
    import imageio.v2 as imageio  # only a run that records needs it

    path.parent.mkdir(parents=True, exist_ok=True)
    with imageio.get_writer(path, fps=fps, codec="libx264", quality=8, macro_block_size=2) as writer:
        for frame in frames:
            writer.append_data(np.kron(frame, np.ones((enlarge, enlarge, 1), frame.dtype)))
    return path
