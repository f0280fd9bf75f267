"""Modules through torch's compiler, which writes a kernel for several operations."""

from collections.abc import Iterable

import torch
from torch import nn

from harness.config import ConfigError

BACKEND = "inductor"
VERSIONS = 64  # compiled versions of one module's code: several networks share it, each with shapes of its own


def compile_modules(modules: Iterable[nn.Module], device: torch.device) -> None:
    """Lets each module be compiled at its first call, for every shape anew. None may draw random numbers.

    Raises ConfigError where nothing can be compiled.
    """
    try:
        torch.compile(torch.sin, dynamic=False, backend=BACKEND)(torch.zeros(2, device=device))
    except RuntimeError as error:  # raised where a compiler is missing or fails
        raise ConfigError(f"compile=true: {str(error).strip().splitlines()[0]}; use compile=false") from error
    torch._dynamo.config.recompile_limit = VERSIONS
    for module in modules:
        module.compile(dynamic=False, backend=BACKEND)
