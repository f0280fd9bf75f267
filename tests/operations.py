"""What a piece of tensor code does, operation by operation, to tell whether it could be captured once and replayed."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Operations whose result the host waits for, or whose shape depends on data.
FORBIDDEN = {
    "_local_scalar_dense",
    "item",
    "nonzero",
    "masked_select",
    "is_nonzero",
    "equal",
    "_unique2",
    "unique_dim",
    "bincount",
}


class OperationRecorder(TorchDispatchMode):
    """Records names and result shapes; fails on what waits for the device or has a shape that depends on data."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        assert name not in FORBIDDEN, name
        if name == "index":
            assert all(index is None or index.dtype != torch.bool for index in args[1]), "boolean indexing"
        self.calls.append((name, tuple(result.shape) if isinstance(result, torch.Tensor) else None))
        return result
