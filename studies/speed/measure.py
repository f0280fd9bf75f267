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
from harness.hardware import (
    copy_rate,
    matrix_rate,
    synchronize,
)
from harness.loop import Parts
from harness.optimizers import adam_parameters
from harness.precision import set_precision
from harness.run import Benchmark, choose_device, make_environments, make_parts_that_fit
from harness.seeding import derive_seed, numpy_generator
from studies.speed.updates import borders_of, by_part, time_updates, updates_to_trace, write_trace

# That a step moves for one trained value: it reads the value, its gradient and two moments, and writes all but the
# gradient, or, where it clips, all; the gradient's norm comes before that.
ADAM_BYTES, CLIPPED_ADAM_BYTES = 28, 32 + 4
OBSERVATIONS = 64  # different ones that fill a replay


def measure(
    config, benchmark: Benchmark, repeats: int, seconds: float, others: dict[str, Any], trace: Path | None
) -> dict:
    """Everything that is measured, as plain values in seconds, bytes and operations.

    repeats: how often a cycle of updates is timed. seconds: how long environment, evaluation and the machine's rates
    are, and agent steps at least. others: by name, configurations whose updates are timed too.
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
            with _filled_parts(other, benchmark, device) as parts:
                compared[name] = time_updates(other, parts, device, repeats)
            del parts  # their memory is needed again
        with _filled_parts(config, benchmark, device) as parts:
            result |= {"replay_steps": parts.replay.steps_stored, "replay_bytes": parts.replay.nbytes}
            result |= time_updates(config, parts, device, repeats)
            if trace is not None:
                write_trace(updates_to_trace(config, parts, result["captured"]), device, trace)
            least_steps = repeats * parts.agent.cycle if device.type == "cpu" else 1
            result |= time_agent_steps(config, parts, device, seconds, least_steps)
            result |= time_environment(config, benchmark, parts.environment, seconds)
            result |= time_evaluation(config, benchmark, parts.agent, device, seconds)
            result |= _rates(config, benchmark, parts.agent, device, seconds, result)
            result["renderer"] = benchmark.manifest(config, parts).get("renderer")
    except torch.OutOfMemoryError as error:
        raise ConfigError(f"this does not fit on {device}: choose smaller batches or a smaller --size") from error
    ratios = ("update_seconds", "update_cpu_seconds")
    result["compared"] = {
        name: {key: timed[key] for key in ratios} | {f"{key}_ratio": timed[key] / result[key] for key in ratios}
        for name, timed in compared.items()
    }
    return result


@contextmanager
def _filled_parts(config, benchmark: Benchmark, device: torch.device) -> Iterator[Parts]:
    """Parts with eager updates. On a CPU the replay holds what it does at the first update, on a GPU all it can."""
    set_precision(config.precision, config.deterministic)
    if config.threads:
        torch.set_num_threads(config.threads)
    parts = make_parts_that_fit(replace(config, capture="off"), benchmark, device)
    with closing(parts.environment):
        fill_replay(config, parts, parts.replay.capacity if device.type == "cuda" else config.loop.learning_starts)
        yield parts


def fill_replay(config, parts: Parts, steps: int) -> None:
    """Stores `steps` steps of noise that end no episode; a batch of noise costs what a batch of pictures does."""
    space, generator = parts.environment.observation_space, numpy_generator(config.seed, "speed")
    observations = generator.integers(0, 256, (OBSERVATIONS, *space.shape), np.uint8)
    for step in range(steps):
        observation, following = observations[step % OBSERVATIONS], observations[(step + 1) % OBSERVATIONS]
        action, reward = parts.environment.action_space.sample(), float(generator.random())
        parts.replay.begin_step()
        parts.replay.store(observation, action, reward, False, False, following, {"life_lost": False})


def time_agent_steps(config, parts: Parts, device: torch.device, seconds: float, least: int) -> dict:
    """The training loop's steps, without logs and checkpoints: for `seconds`, and at least `least` of them."""
    agent, environment, replay, loop = parts.agent, parts.environment, parts.replay, config.loop
    observation, _ = environment.reset()
    agent.act(observation, loop.learning_starts + 1, True)  # a GPU's libraries look for the best kernels first
    synchronize(device)
    clock, steps, updates, first, begin = Clock(), 0, 0, True, time.perf_counter()

    def update(step: int) -> int:
        due = parts.schedule.due(step)
        with clock("update"):
            for kind in due:
                agent.update(replay, step, kind)
        return len(due)

    while steps < least or time.perf_counter() - begin < seconds:
        step = loop.learning_starts + 1 + steps
        with clock("act"):
            action = agent.act(observation, step, first)
        replay.begin_step()
        if loop.order == "overlapped":
            updates += update(step)
        with clock("environment"):
            following, reward, terminated, truncated, info = environment.step(action)
        with clock("store"):
            replay.store(observation, action, reward, terminated, truncated, following, info)
        if loop.order == "released":
            updates += update(step)
        with clock("environment"):
            first = terminated or truncated
            observation = environment.reset()[0] if first else following
        steps += 1
    with clock("act"):
        synchronize(device)  # as the next action would
    elapsed = clock.read()
    total = elapsed.pop("total")
    return {
        "agent_steps_per_second": steps / total,
        "agent_step_seconds": {phase: value / steps for phase, value in elapsed.items()},
        "updates_per_agent_step": updates / steps,
    }


def time_environment(config, benchmark: Benchmark, environment, seconds: float) -> dict:
    """The training environment alone under random actions; resets are left out."""
    environment.reset()
    action, ended = None, False

    def step() -> None:
        nonlocal ended
        _, _, terminated, truncated, _ = environment.step(action)
        ended = terminated or truncated

    steps, begin, parts = 0, time.perf_counter(), Counter()
    while not steps or time.perf_counter() - begin < seconds:
        action = environment.action_space.sample()
        parts.update(by_part(borders_of(step, time.perf_counter), lambda start, end: end - start))
        steps += 1
        if ended:
            environment.reset()
    frames = benchmark.units(config, steps)["frames"]
    return {
        "environment_frames_per_second": frames / parts.total(),
        "environment_step_seconds": {name: value / steps for name, value in parts.items()},
    }


class TimeIsUp(Exception):
    """Ends an evaluation in its middle."""


def time_evaluation(config, benchmark: Benchmark, agent, device: torch.device, seconds: float) -> dict:
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
        agent.save_weights(weights)
        player = benchmark.make_player(config, weights, seed, device)
    player(np.zeros((environments, *config.observation_shape), np.uint8), np.zeros(environments, bool))
    workers = config.evaluation.workers
    with suppress(TimeIsUp), make_environments(config, benchmark, seed, film=False, workers=workers) as places:
        play_episodes(player, places, episodes=environments, film=None, watch=watch)
    return {
        "evaluation_frames_per_second": benchmark.units(config, steps)["frames"] / (end - begin),
        "evaluation_environments": environments,
        "evaluation_workers": workers,
    }


def _rates(config, benchmark: Benchmark, agent, device: torch.device, seconds: float, timed: dict) -> dict:
    """What the machine can do, and how much of that the updates in `timed` use."""
    matrix = matrix_rate(device, torch.bfloat16 if config.precision == "bf16" else torch.float32, seconds)
    copy = copy_rate(device, seconds)
    flops = benchmark.update_flops(config, agent)
    trained = sum(parameter.numel() for parameter in agent.trained_parameters())
    moved = sum(
        parameter.numel() * (CLIPPED_ADAM_BYTES if hasattr(optimizer, "grad_scale") else ADAM_BYTES)
        for optimizer in agent.optimizers.values()
        for parameter in adam_parameters(optimizer)
    )
    rates = {
        "flops": flops,
        "flops_per_second": flops / timed["update_seconds"],
        "matrix_flops_per_second": matrix.per_second,
        "share_of_matrix_rate": flops / timed["update_seconds"] / matrix.per_second,
        "bandwidth": copy.per_second,
        "trained_parameters": trained,
        "adam_bytes": moved,
        "adam_seconds_at_bandwidth": moved / copy.per_second,
    }
    if device.type == "cpu":
        rates["matrix_flops_per_cpu_second"] = matrix.per_cpu_second
        rates["share_of_matrix_rate_cpu"] = flops / timed["update_cpu_seconds"] / matrix.per_cpu_second
    return rates
