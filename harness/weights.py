"""The trained weights of a run."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from harness.checkpoint import require_finite, write_tensors
from harness.config import ConfigError

RUN = "run"  # key in the file's header


def write_weights(modules: nn.Module, path: Path, about: dict | None = None) -> None:
    """Writes the tensors of `modules`, with JSON values `about` them; the file is whole or absent.

    Raises NotFinite, and OSError.
    """
    tensors = {key: value.cpu().contiguous() for key, value in modules.state_dict().items()}
    require_finite(tensors)
    path.parent.mkdir(exist_ok=True)  # not the run's own folder, which somebody may have removed
    write_tensors(tensors, path, about and {RUN: json.dumps(about)})


def read_about(path: Path) -> dict:
    """Values that were written beside the tensors. Raises ConfigError."""
    try:
        with safe_open(path, "numpy") as file:
            return json.loads(file.metadata()[RUN])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} does not say which run its weights are of: give the run folder") from error


def read_weights(
    path: Path, make_modules: Callable[[dict[str, Tensor]], nn.ModuleDict], device: torch.device
) -> nn.ModuleDict:
    """The modules that `make_modules` builds for the tensors of a file, filled with them and frozen.

    Raises ConfigError for a file that is damaged or does not fit them.
    """
    try:
        tensors = load_file(path)
        modules = make_modules(tensors)
        modules.load_state_dict(tensors)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise ConfigError(f"{path} cannot be loaded: damaged, or of another configuration") from error
    return modules.to(device).requires_grad_(False).eval()
