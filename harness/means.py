"""Means of metrics between two rows of a log, without a wait for the device."""

import torch
from torch import Tensor


class MetricMeans:
    """Means of each metric over the updates that gave it, since they were last read; adding waits for no device."""

    def __init__(self):
        # Updates of one kind give the same metrics, which are added up as one vector: two kernels an update.
        self._sums: dict[tuple[str, ...], Tensor] = {}  # float64 [metrics], by their names
        self._counts: dict[tuple[str, ...], int] = {}

    def add(self, metrics: dict[str, Tensor]) -> None:
        """metrics: 0-d tensors by name, which may be overwritten later; best of one dtype."""
        names, values = tuple(metrics), torch.stack(list(metrics.values()))
        if names in self._sums:
            self._sums[names] = self._sums[names].to(values.device).add_(values)
        else:
            self._sums[names] = values.double()
        self._counts[names] = self._counts.get(names, 0) + 1

    def read(self) -> dict[str, float]:
        """The means as floats (the one wait for the device), and a new beginning."""
        sums, counts = {}, {}
        for kind in self.state().values():
            for name, value in kind["sums"].items():
                sums[name] = sums.get(name, 0.0) + value
                counts[name] = counts.get(name, 0) + kind["count"]
        self._sums, self._counts = {}, {}
        return {name: total / counts[name] for name, total in sums.items()}

    def state(self) -> dict:
        return {
            str(number): {"count": self._counts[names], "sums": dict(zip(names, sums.tolist(), strict=True))}
            for number, (names, sums) in enumerate(self._sums.items())
        }

    def load_state(self, state: dict) -> None:
        kinds = {tuple(kind["sums"]): kind for kind in state.values()}
        self._sums = {
            names: torch.tensor(list(kind["sums"].values()), dtype=torch.float64) for names, kind in kinds.items()
        }
        self._counts = {names: kind["count"] for names, kind in kinds.items()}
