"""CUDA's Multi-Process Service for runs that share a GPU: their kernels run at the same time, not by turns."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

CONTROL = "nvidia-cuda-mps-control"  # comes with the driver
PIPE, LOG = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"


@contextmanager
def sharing(gpus: Sequence[str], runs: int, say: Callable[[str], None]) -> Iterator[dict[str, str]]:
    """Environment of `runs` that go side by side on `gpus`; the service ends with the context.

    Where it is missing or does not start, the runs take turns, and `say` hears so.
    """
    if not gpus or runs <= len(gpus):
        yield {}
        return
    if PIPE in os.environ:
        say(f"runs on one GPU use the MPS of {PIPE}={os.environ[PIPE]}")
        yield {}
        return
    control = shutil.which(CONTROL)
    if control is None:
        say(f"runs on one GPU take turns: {CONTROL} is not there")
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="mps-") as folder:
        client = {PIPE: os.path.join(folder, "pipe"), LOG: os.path.join(folder, "log")}
        for path in client.values():
            os.mkdir(path)
        # The service sees all GPUs, so that a run's number of one means the same to both.
        environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
        environment |= {"CUDA_DEVICE_ORDER": os.environ.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID")} | client
        started = subprocess.run([control, "-d"], env=environment, capture_output=True, text=True, check=False)
        if started.returncode:
            why = " ".join((started.stdout + started.stderr).split())[-200:]
            say(f"runs on one GPU take turns: {CONTROL} did not start: {why}")
            yield {}
            return
        say("runs on one GPU compute at the same time, through CUDA MPS")
        try:
            yield client
        finally:
            subprocess.run([control], input="quit\n", env=environment, capture_output=True, text=True, check=False)
