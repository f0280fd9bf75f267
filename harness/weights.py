"""The trained weights of a run."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from harness.agent import Agent
from harness.checkpoint import Checkpoints, require_finite, write_tensors
from harness.config import ConfigError, require
from harness.errors import CheckpointError
from harness.run_folder import RunFolder, config_hash, read_config

RUN = "run"  # key in the file's header
AUXILIARY = "auxiliary.safetensors"  # file of a packed agent: tensors of its auxiliary's modules
MODULES = ("owned", "targets")  # module groups of an auxiliary


def write_weights(modules: nn.Module, path: Path, about: dict | None = None) -> None:
    """Writes the tensors of `modules`, with JSON values `about` them; the file is whole or absent.

    Raises NotFinite, and OSError.
    """
    tensors = {key: value.cpu().contiguous() for key, value in modules.state_dict().items()}
    require_finite(tensors)
    path.parent.mkdir(exist_ok=True)  # not the run's own folder, which somebody may have removed
    write_tensors(tensors, path, about and {RUN: json.dumps(about)})


def read_auxiliary(folder: RunFolder, config: Any) -> tuple[int, dict[str, Tensor]]:
    """Agent steps and the auxiliary's tensors, of a run's newest checkpoint or a packed agent's file.

    Raises ConfigError where neither is whole.
    """
    refusal = f"{folder.path} has no checkpoint that can be shown: mlr inspect says what is there"
    try:
        if (folder.path / AUXILIARY).is_file():
            return int(folder.saved_weights().stem), read_tensors(folder.path / AUXILIARY)
        checkpoints = Checkpoints(folder.checkpoints, config.replay.capacity, config_hash(read_config(folder.path)))
        loaded = checkpoints.load(lambda start, rows: None, lambda line: None)
        require(loaded is not None, refusal)
        agent_steps, state = loaded
        modules = state["agent"]["auxiliary"]
    except (CheckpointError, LookupError, OSError, SafetensorError) as error:
        raise ConfigError(refusal) from error
    return agent_steps, {f"{name}.{key}": value for name in MODULES for key, value in modules.get(name, {}).items()}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The file's tensors. Raises ConfigError for a file that cannot be read, SafetensorError for a damaged one."""
    with _reading(path):
        return load_file(path)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Raises ConfigError with the system's reason, where safetensors calls any file absent that it cannot open."""
    try:
        path.open("rb").close()
        yield
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error


def load_trained(agent: Agent, weights: Path, auxiliary: dict[str, Tensor]) -> None:
    """Fills the networks that act and the auxiliary's; raises ConfigError for tensors of another configuration."""
    try:
        unknown = agent.networks.load_state_dict(read_tensors(weights), strict=False).unexpected_keys
        require(not unknown, f"{weights} has networks of another agent: {', '.join(unknown)}")
        for name in MODULES:
            own = {key.removeprefix(f"{name}."): value for key, value in auxiliary.items() if key.startswith(name)}
            getattr(agent.auxiliary, name).load_state_dict(own)
    except (RuntimeError, SafetensorError) as error:
        raise ConfigError(f"{weights} and the auxiliary's tensors cannot be loaded: {error}") from error


def read_about(path: Path) -> dict:
    """Values that were written beside the tensors. Raises ConfigError."""
    try:
        with _reading(path), safe_open(path, "numpy") as file:
            return json.loads(file.metadata()[RUN])
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path} does not say which run its weights are of: give the run folder") from error


def read_weights(
    path: Path, make_modules: Callable[[dict[str, Tensor]], nn.ModuleDict], device: torch.device
) -> nn.ModuleDict:
    """The modules that `make_modules` builds for the tensors of a file, filled with them and frozen.

    Raises ConfigError for a file that cannot be read, is damaged, or does not fit them.
    """
    try:
        tensors = read_tensors(path)
        modules = make_modules(tensors)
        modules.load_state_dict(tensors)
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise ConfigError(f"{path} cannot be loaded: damaged, or of another configuration") from error
    return modules.to(device).requires_grad_(False).eval()
