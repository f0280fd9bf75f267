"""Means of metrics between two rows of a log, without a wait for the device."""

import torch


class MetricMeans:
    """Means of each metric over the updates that gave it, since they were last read; adding waits for no device."""

    def __init__(self):
        self._sums: dict[str, torch.Tensor] = {}  # float64, on the metrics' device, from the first `add` on
        self._restored: dict[str, float] = {}  # what the sums begin with
        self._counts: dict[str, int] = {}

    def add(self, metrics: dict[str, torch.Tensor]) -> None:
        for key, value in metrics.items():
            if key not in self._sums:
                start = self._restored.pop(key, 0.0)
                self._sums[key] = torch.full_like(value, start, dtype=torch.float64)
            self._sums[key] += value
            self._counts[key] = self._counts.get(key, 0) + 1

    def read(self) -> dict[str, float]:
        """The means as floats (the one wait for the device), and a new beginning."""
        means = {key: total / self._counts[key] for key, total in self._totals().items()}
        self._sums, self._restored, self._counts = {}, {}, {}
        return means

    def state(self) -> dict:
        return {"counts": dict(self._counts), "sums": self._totals()}

    def load_state(self, state: dict) -> None:
        self._sums, self._restored, self._counts = {}, dict(state["sums"]), dict(state["counts"])

    def _totals(self) -> dict[str, float]:
        if not self._sums:
            return dict(self._restored)
        return self._restored | dict(zip(self._sums, torch.stack(list(self._sums.values())).tolist(), strict=True))
