"""Predicted GPU hours of a sweep: the updates of its runs at the rates of configs/gpu_prediction.yaml."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from harness.files import CONFIGS
from harness.sweeps.plan import SweepRun
from recipes import COMMANDS, load_recipe
from studies.auxiliaries import ACTIONS
from studies.gpu_prediction import predict, record_config


def predicted_cost(runs: Sequence[SweepRun]) -> list[str]:
    """Lines with the hours of each suite's arms, and of all. An arm's first run stands for its others."""
    arms: dict[tuple[str, str], list[SweepRun]] = {}
    for run in runs:
        arms.setdefault((run.suite, run.arm), []).append(run)
    lines, total, unknown = [], 0.0, 0
    for (suite, arm), members in arms.items():
        hours = update_hours(members[0])
        if hours is None:
            unknown += len(members)
            continue
        total += hours * len(members)
        lines.append(f"  {suite}/{arm}: {len(members)} runs of {hours:,.2f} hours")
    if not lines:
        return []
    left_out = f"; {unknown} runs are not predicted" if unknown else ""
    head = "prediction, not measured: GPU hours of the updates alone on an H200, by configs/gpu_prediction.yaml"
    return [head, *lines, f"  all: {total:,.1f} GPU hours{left_out}"]


def update_hours(run: SweepRun) -> float | None:
    """None for a kind of run or a precision without rates."""
    name = Path(run.arguments[0]).stem.removeprefix("train_")
    rates = yaml.safe_load((CONFIGS / "gpu_prediction.yaml").read_text())
    config = COMMANDS[name].resolve([*run.overrides, "device=cpu"])
    if name not in ACTIONS or config.precision not in rates["flops_per_second"]:
        return None
    recordings = record_config(name, config, fused=False)
    seconds = sum(predict(recordings, config.precision, rates).values())
    updates = load_recipe(config).method.make_schedule(config).total(config.agent_steps)
    return seconds * updates / 3600
