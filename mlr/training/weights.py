"""The trained weights of a run."""

from pathlib import Path

from torch import nn

from mlr.training.checkpoint import flush, require_finite, write_tensors


def write_weights(modules: nn.Module, path: Path) -> None:
    """Writes the tensors of `modules`; the file is whole or absent. Raises NotFinite, and OSError."""
    tensors = {key: value.cpu().contiguous() for key, value in modules.state_dict().items()}
    require_finite(tensors)
    path.parent.mkdir(exist_ok=True)  # not the run's own folder, which somebody may have removed
    part = path.with_suffix(".part")
    write_tensors(tensors, part)
    flush(part)
    part.replace(path)
