"""Speed of a suite here: its updates and their parts, agent steps, environment, evaluation, and the machine."""

import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.clock import Clock
from harness.config import ConfigError
from harness.evaluation import play_episodes
from harness.hardware import matrix_rate, synchronize
from harness.loop import Parts, Position, TrainingLoop
from harness.memory import keep_freed_memory
from harness.optimizers import adam_parameters
from harness.parts import choose_device, make_environments, make_parts_that_fit
from harness.precision import set_precision
from harness.recipe import Recipe, Spaces
from harness.seeding import derive_seed
from harness.weights import write_weights
from studies.speed.fill import fill_replay
from studies.speed.hardware import copy_rate
from studies.speed.updates import (
    borders_of,
    both_clocks,
    by_part,
    cpu_elapsed,
    elapsed,
    operations_by_part,
    time_updates,
    updates_to_trace,
    write_trace,
)

# Bytes of an optimiser's step for one trained value: it reads the value, its gradient and two moments, and writes all
# but the gradient. With a clip it writes that too, and the gradient's norm comes before.
ADAM_BYTES, CLIPPED_ADAM_BYTES = 28, 32 + 4


def measure(config, recipe: Recipe, repeats: int, seconds: float, others: dict[str, Any], trace: Path | None) -> dict:
    """All measurements, as plain values in seconds, bytes and operations.

    repeats: timings of a cycle of updates. seconds: length of the measurement of environment, evaluation and the
    machine's rates, and the least of agent steps. others: by name, configurations whose updates are timed too.
    trace: file for a profile of some updates, in Chrome's format.
    Raises ConfigError where it does not fit.
    """
    device = choose_device(config.device)
    result: dict[str, Any] = {"device": device.type}
    if any(each.deterministic for each in (config, *others.values())):
        set_precision(config.precision, deterministic=True)  # cuBLAS reads once what its products need for that
    try:
        compared = {}
        for name, other in others.items():
            with filled_parts(other, recipe, device) as parts:
                compared[name] = time_updates(other, parts, device, repeats)
            del parts  # their memory is needed again
        with filled_parts(config, recipe, device) as parts:
            result |= {"replay_steps": parts.replay.steps_stored, "replay_bytes": parts.replay.nbytes}
            result |= time_updates(config, parts, device, repeats)
            if trace is not None:
                write_trace(updates_to_trace(config, parts, result["captured"]), device, trace)
            least_updates = repeats * len(parts.agent.cycle) if device.type == "cpu" else 1
            result |= time_agent_steps(config, parts, device, seconds, least_updates)
            result |= time_environment(config, recipe, parts.environment, seconds)
            result |= time_evaluation(config, recipe, parts.agent, device, seconds)
            result |= _rates(config, recipe, parts, device, seconds, result)
            result["renderer"] = recipe.suite.manifest(config, parts.environment).get("renderer")
    except torch.OutOfMemoryError as error:
        raise ConfigError(f"this does not fit on {device}: choose smaller batches or a smaller --size") from error
    ratios = ("update_seconds", "update_cpu_seconds")
    result["compared"] = {
        name: {key: timed[key] for key in ratios} | {f"{key}_ratio": timed[key] / result[key] for key in ratios}
        for name, timed in compared.items()
    }
    return result


@contextmanager
def filled_parts(config, recipe: Recipe, device: torch.device) -> Iterator[Parts]:
    """Parts with eager updates. On a CPU the replay holds what it does at the first update, on a GPU all it can."""
    set_precision(config.precision, config.deterministic)
    keep_freed_memory()
    if config.threads:
        torch.set_num_threads(config.threads)
    parts = make_parts_that_fit(replace(config, capture="off"), recipe, device)
    with closing(parts.environment):
        capacity = parts.replay.capacity
        fill_replay(config, parts, capacity if device.type == "cuda" else min(config.loop.learning_starts, capacity))
        yield parts


class Clocks:
    """Seconds by phase of a step, by the clock and of the CPU's threads."""

    def __init__(self):
        self._clocks = Clock(), Clock(time.process_time)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        wall, cpu = self._clocks
        with wall(phase), cpu(phase):
            yield

    def read(self) -> list[dict[str, float]]:
        return [clock.read() for clock in self._clocks]


def time_agent_steps(config, parts: Parts, device: torch.device, seconds: float, least: int) -> dict:
    """Steps of the training loop with their updates: for `seconds`, and with at least `least` updates."""
    start = config.loop.learning_starts + 1
    position = Position(step=start, updates=parts.schedule.total(start))
    loop = TrainingLoop(parts, config.loop.order, position)
    loop.clock = clocks = Clocks()
    loop.start()
    loop.agent.act(position.observation, start, True)  # a GPU's libraries look for the best kernels first
    synchronize(device)
    clocks.read()
    before, begin = position.updates, time.perf_counter()
    while position.updates - before < least or time.perf_counter() - begin < seconds:
        loop.step()
    with loop.clock("act"):
        synchronize(device)  # as the next action would
    steps, (seconds_of, cpu_of) = position.step - start, clocks.read()
    return {
        "agent_steps_per_second": steps / seconds_of.pop("total"),
        "agent_step_seconds": {phase: value / steps for phase, value in seconds_of.items()},
        "agent_step_cpu_seconds": {phase: cpu_of[phase] / steps for phase in seconds_of},
        "updates_per_agent_step": (position.updates - before) / steps,
    }


def time_environment(config, recipe: Recipe, environment, seconds: float) -> dict:
    """The training environment alone under random actions; resets are left out."""
    environment.reset()
    action, ended = None, False

    def step() -> None:
        nonlocal ended
        _, _, terminated, truncated, _ = environment.step(action)
        ended = terminated or truncated

    steps, begin, parts, cpu_parts = 0, time.perf_counter(), Counter(), Counter()
    while not steps or time.perf_counter() - begin < seconds:
        action = environment.action_space.sample()
        borders = borders_of(step, both_clocks)
        parts.update(by_part(borders, elapsed))
        cpu_parts.update(by_part(borders, cpu_elapsed))
        steps += 1
        if ended:
            environment.reset()
    frames = recipe.suite.units(config, steps)["frames"]
    return {
        "environment_frames_per_second": frames / parts.total(),
        "environment_step_seconds": {name: value / steps for name, value in parts.items()},
        "environment_step_cpu_seconds": {name: value / steps for name, value in cpu_parts.items()},
    }


class TimeIsUp(Exception):
    """Ends an evaluation in its middle."""


def time_evaluation(config, recipe: Recipe, agent, device: torch.device, seconds: float) -> dict:
    """An evaluation's first `seconds`, or all of it if it is shorter, without making its environments."""
    environments, seed = config.evaluation.environments, derive_seed(config.seed, "evaluation", 0)
    steps, begin, end = 0, None, None

    def watch(finished: int) -> None:
        nonlocal steps, begin, end
        end = time.perf_counter()
        begin = begin or end
        if steps and end - begin > seconds:
            raise TimeIsUp
        steps += environments - finished

    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.safetensors"
        write_weights(agent.acting, weights)
        player = recipe.method.make_player(config, weights, seed, device)
    player(np.zeros((environments, *config.observation_shape), np.uint8), np.zeros(environments, bool))
    workers = config.evaluation.workers
    with suppress(TimeIsUp), make_environments(config, recipe, seed, film=False, workers=workers) as places:
        play_episodes(player, places, episodes=environments, film=None, watch=watch)
    return {
        "evaluation_frames_per_second": recipe.suite.units(config, steps)["frames"] / (end - begin),
        "evaluation_environments": environments,
        "evaluation_workers": workers,
    }


def _rates(config, recipe: Recipe, parts: Parts, device: torch.device, seconds: float, timed: dict) -> dict:
    """Rates of the machine, and the share of them that the updates in `timed` use."""
    matrix = matrix_rate(device, torch.bfloat16 if config.precision == "bf16" else torch.float32, seconds)
    copy = copy_rate(device, seconds)
    trained = sum(parameter.numel() for parameter in parts.agent.trained_parameters())
    moved = sum(
        parameter.numel() * (CLIPPED_ADAM_BYTES if hasattr(optimizer, "grad_scale") else ADAM_BYTES)
        for optimizer in parts.agent.optimizers.values()
        for parameter in adam_parameters(optimizer)
    )
    rates = {
        "matrix_flops_per_second": matrix.per_second,
        "bandwidth": copy.per_second,
        "trained_parameters": trained,
        "adam_bytes": moved,
        "adam_seconds_at_bandwidth": moved / copy.per_second,
    }
    if device.type == "cpu":
        rates["matrix_flops_per_cpu_second"] = matrix.per_cpu_second
    parts_flops = operations_by_part(recipe.method, config, Spaces.of(parts.environment))
    flops = sum(parts_flops.values())
    per_second = flops / timed["update_seconds"]
    rates |= {"parts_flops": parts_flops, "flops": flops, "flops_per_second": per_second}
    rates["share_of_matrix_rate"] = per_second / matrix.per_second
    if device.type == "cpu":
        rates["share_of_matrix_rate_cpu"] = flops / timed["update_cpu_seconds"] / matrix.per_cpu_second
    return rates
