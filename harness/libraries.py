"""Order in which libraries must be loaded."""

import importlib
import sys
from contextlib import suppress


def load_triton_first() -> None:
    """Loads Triton, where torch may import it later, before a renderer is loaded.

    Triton and Mesa's software rendering each hold an LLVM, and in the other order the process ends with a segmentation
    fault. Processes without torch import neither.
    """
    if "torch" in sys.modules:
        with suppress(ImportError):
            importlib.import_module("triton")
