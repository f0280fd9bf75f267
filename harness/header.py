"""Header of a run: what will run, and what it takes."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from rich.console import Console

from harness.agent import Agent
from harness.hardware import cpu_flops_per_second
from harness.loop import Parts
from harness.operations import run_operations
from harness.parts import is_captured, memory_needed
from harness.recipe import Recipe, Spaces
from harness.run_folder import RunFolder
from harness.schedule import count_kinds

FEW_UPDATES = 150  # for which counting an update's operations, a second's work, is not worth it


def describe(config, recipe: Recipe, parts: Parts, folder: RunFolder, device: torch.device, console: Console) -> None:
    """Prints what will run and what it takes."""
    replay, updates = parts.replay, parts.schedule.total(config.agent_steps)
    name = f"CPU, {torch.get_num_threads()} threads" + (", bf16" if config.precision == "bf16" else "")
    if device.type == "cuda":
        run_as = "as CUDA graphs" if is_captured(config, device) else "run eagerly"
        name = f"{torch.cuda.get_device_name(device)}, {config.precision}, updates {run_as}"
    units = ", ".join(
        f"{count:,} {unit.replace('_', ' ')}" for unit, count in recipe.suite.units(config, config.agent_steps).items()
    )
    lines = [
        f"{config.task}  seed {config.seed}  auxiliary {config.auxiliary}  fidelity {config.fidelity}  "
        f"preset {config.preset}",
        f"run folder   {folder.path}",
        f"device       {name}",
        f"length       {units}, {updates:,} updates",
        *recipe.method.describe(config, parts.agent),
        *recipe.suite.describe(config, parts.environment, device.type),
        *(f"{name.ljust(12)} {note}" for name, note in notes(parts.agent).get("auxiliary", {}).items()),
        f"replay       {replay.nbytes / 1e9:.3f} GB for {replay.capacity:,} steps",
        f"memory       {memory_needed(parts) / 1e9:.3f} GB with networks and optimisers; an update takes more",
    ]
    if device.type == "cuda" and is_captured(config, device):  # warming up has made updates
        taken, there = torch.cuda.max_memory_reserved(device), torch.cuda.get_device_properties(device).total_memory
        lines.append(f"GPU memory   {taken / 1e9:.1f} GB of {there / 1e9:.1f} GB")
    if device.type == "cpu" and updates > FEW_UPDATES:
        kinds = count_kinds(parts.schedule, config.agent_steps)
        lines += describe_cost(config, recipe, parts.environment, kinds)
    console.print("\n".join(lines))


def describe_cost(config, recipe: Recipe, environment: Any, updates: Mapping[str, int]) -> list[str]:
    """A line on the time that updates, given by kind, need on a CPU at the least, where that is a minute or more."""
    operations = run_operations(recipe.method, config, Spaces.of(environment), updates)
    hours = (operations or 0) / cpu_flops_per_second() / 3600
    if hours < 1 / 60:
        return []
    length = f"{hours:,.0f} hours" if hours >= 2 else f"{hours * 60:.0f} minutes"
    advice = "; a GPU, or preset=cpu, is what you want" if hours > 48 else ""
    return [f"cost         at least {length} on this CPU for the updates' arithmetic alone{advice}"]


def describe_resets(config: Any, number_due: Callable[[Any, int], int]) -> list[str]:
    """A line on when the agent is reset, where its configuration asks for it."""
    if config.resets is None or config.resets.every == 0:
        return []
    steps = [f"{step:,}" for step in range(config.agent_steps) if number_due(config.resets, step)]
    if not steps:
        return [
            f"resets       none: resets.every={config.resets.every} does not fit {config.agent_steps:,} agent steps"
        ]
    listed = ", ".join(steps[:3]) + (f", ... {steps[-1]}" if len(steps) > 3 else "")
    return [f"resets       {len(steps)}, after agent steps {listed}"]


def notes(agent: Agent) -> dict:
    """Facts for the manifest from the agent's auxiliary, if there is one."""
    return {} if agent.auxiliary is None else {"auxiliary": agent.auxiliary.notes(), "curve": agent.auxiliary.curve}
