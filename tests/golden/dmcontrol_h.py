"""Replays h (whole updates in a row) of a folder of DMControl reference files, through `SACAgent.update`."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from dmcontrol.config import AuxOptimizerConfig
from dmcontrol.losses import learning_rate_factor
from tests.golden.check import Arrays, Check, by_case, exact, load, named, relative
from tests.golden.dmcontrol_weights import UNUSED, Reference, load_reference

FIRST_LOSSES, LATER_LOSSES, NORMS = 2e-5, 1e-4, 1e-5
# The small rates of the schedule's start hide rounding errors of the auxiliary's gradient; a fixed rate shows them.
SMALL_RATE_WEIGHTS, FIXED_RATE_WEIGHTS = 1e-6, 5e-5
METRICS = {
    "mlr_lr_used": "aux/learning_rate",
    "critic_loss": "critic_loss",
    "mlr_loss": "aux/loss",
    "actor_loss": "actor_loss",
    "alpha_loss": "temperature_loss",
}


def replay_h(folder: Path) -> Iterator[Check]:
    """Rates, losses and weights of every case in the file."""
    for path in sorted(folder.glob("h_*.npz")):
        arrays = load(path)
        for case, own in by_case(arrays, "log", "sum_and_l2").items():
            yield from named(f"{case.rstrip('/')} ", case_checks(path.name, folder, own))


def case_checks(file: str, folder: Path, arrays: Arrays) -> Iterator[Check]:
    log = dict(zip(arrays["log_columns"], arrays["log"].T, strict=True))
    names = [str(name) for name in arrays["param_names"] if not name.startswith(UNUSED)]
    aux = "mlr" if any(name.startswith("mlr/") for name in names) else "none"
    rates = log["mlr_lr_used"]
    fixed = aux == "mlr" and (rates == rates[0]).all()
    overrides = ["aux_optimizer.warmup_start=1", f"aux_optimizer.learning_rate={rates[0]}"] if fixed else []
    overrides += actor_schedule(log["actor_loss"])
    tolerance = FIXED_RATE_WEIGHTS if fixed else SMALL_RATE_WEIGHTS
    sums = max(tolerance, NORMS)
    reference = load_reference(folder, arrays, aux, *overrides)
    agent = reference.agent
    agent._updates = updates_before(log["actor_loss"], reference.config.agent.update_every)
    if aux == "mlr" and not fixed:
        agent._auxiliary_updates.fill_(auxiliary_updates_before(rates, reference.config.aux_optimizer))
    yield exact(file, "parameters", sorted(reference.parameters), sorted(names))
    rows = [index for index, name in enumerate(arrays["param_names"]) if not name.startswith(UNUSED)]
    snapshots = arrays["sum_and_l2"][:, rows]
    yield from norm_checks(file, reference, names, snapshots[0], "before", sums)
    metrics = []
    for update, snapshot in enumerate(snapshots[1:]):
        reference.update = update
        metrics.append(agent.update(reference.batch, update, "update"))
        yield from norm_checks(file, reference, names, snapshot, f"after update {update + 1}", sums)
        yield from weight_checks(file, reference, arrays, f"params_after_update{update + 1}/", tolerance)
    for key, metric in METRICS.items():
        if key in log:
            values = np.array([float(entry.get(metric, "nan")) for entry in metrics])
            yield from log_checks(file, key, values, log[key])


def actor_schedule(losses: np.ndarray) -> list[str]:
    """The number of updates between two with the actor, where the file shows it."""
    ran = np.flatnonzero(~np.isnan(losses))
    return [f"agent.update_every={ran[1] - ran[0]}"] if len(ran) > 1 else []


def updates_before(losses: np.ndarray, every: int) -> int:
    """A number of earlier updates with which the actor takes part in those where the file has its loss."""
    ran = ~np.isnan(losses)
    turns = np.arange(len(ran))
    return next((before for before in range(every) if ((before + turns) % every == 0).tolist() == ran.tolist()), 0)


def auxiliary_updates_before(rates: np.ndarray, config: AuxOptimizerConfig) -> int:
    """The number of earlier updates of the auxiliary whose learning rates come next to the recorded ones."""
    counts = torch.arange(4 * config.warmup_updates)
    factors = learning_rate_factor(counts, config.warmup_updates, config.warmup_start).numpy()
    scheduled = np.lib.stride_tricks.sliding_window_view(config.learning_rate * factors, len(rates))
    return int(np.abs(scheduled - rates).sum(axis=1).argmin())


def norm_checks(
    file: str, reference: Reference, names: list[str], expected: np.ndarray, when: str, sums: float
) -> Iterator[Check]:
    """L2 norms one by one, and sums as shares of them; `expected` [names, 2] holds sum and L2."""
    weights = [reference.parameters[name].detach().double() for name in names]
    actual = np.array([(float(values.sum()), float(values.norm())) for values in weights])
    scale = np.where(expected[:, 1] == 0, 1, expected[:, 1])
    for column, (quantity, tolerance) in enumerate((("sums", sums), ("L2 norms", NORMS))):
        yield relative(file, f"{quantity} {when}", actual[:, column] / scale, expected[:, column] / scale, tolerance)


def weight_checks(file: str, reference: Reference, arrays: Arrays, prefix: str, tolerance: float) -> Iterator[Check]:
    for key in (key for key in arrays if key.startswith(prefix) and not key.startswith(prefix + UNUSED)):
        weights = reference.parameters[key.removeprefix(prefix)].detach()
        yield relative(file, key, weights, arrays[key], tolerance)


def log_checks(file: str, name: str, values: np.ndarray, expected: np.ndarray) -> Iterator[Check]:
    """A part that did not run has NaN, and a rate of 0."""
    values = np.where(np.isnan(values) & (expected == 0), 0, values) if "_lr_" in name else values
    yield exact(file, f"{name} runs", np.isnan(values), np.isnan(expected))
    for part, when, tolerance in ((slice(1), "first", FIRST_LOSSES), (slice(1, None), "later", LATER_LOSSES)):
        ran = ~np.isnan(expected[part])
        yield relative(file, f"{name} {when}", values[part][ran], expected[part][ran], tolerance)
