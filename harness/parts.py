"""Parts of a run from its configuration: environment, agent, replay, schedule, evaluation."""

import re
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.agent import Agent
from harness.capture import capture_faster, capture_updates
from harness.config import DEVICE, ConfigError, require
from harness.environments import Environments, LocalEnvironments, SpreadEnvironments
from harness.episodes import PLAYED, pack
from harness.evaluation import Watch, episode_rows, play_episodes
from harness.fused import seconds_on
from harness.loop import Parts, require_order
from harness.memory import available_bytes
from harness.precision import set_precision
from harness.recipe import Recipe, Spaces
from harness.seeding import derive_seed
from harness.video import episode_video

TRAINED_BYTES = 16  # one trained value, its gradient, and Adam's two moments


def choose_device(name: str) -> torch.device:
    """Raises ConfigError for a device that this machine does not have."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    require(re.fullmatch(DEVICE, name) is not None, f"device={name} is not one of auto, cpu, cuda, cuda:N")
    device = torch.device(name)
    if device.type == "cuda" and not (torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()):
        raise ConfigError(f"device={name}: torch finds no such GPU; install a CUDA build of torch or use device=cpu")
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)
        torch.cuda.set_device(device)  # pinned memory, and what asks for no device by name, belong to this one
    return device


def make_parts_that_fit(config, recipe: Recipe, device: torch.device) -> Parts:
    """Raises ConfigError if the memory does not hold them."""
    try:
        parts = make_parts(config, recipe, device)
    except (MemoryError, RuntimeError) as error:
        # On the CPU torch has no class of its own for a refused allocation. On a GPU it has, and words do not tell: an
        # "illegal memory access" is something else.
        refused = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if not refused and (device.type == "cuda" or not re.search("memory|alloc|overflow", str(error))):
            raise
        advice = "; precision=bf16 needs less" if device.type == "cuda" and config.precision != "bf16" else ""
        raise ConfigError(f"this run does not fit on {device}: {str(error).splitlines()[0]}{advice}") from error
    available = available_bytes() if device.type == "cpu" else None  # a GPU has refused already
    if available is not None and memory_needed(parts) > available:
        raise ConfigError(
            f"this run does not fit on {device}: replay and networks take {memory_needed(parts) / 1e9:.1f} GB, "
            f"{available / 1e9:.1f} GB are free"
        )
    return parts


def memory_needed(parts: Parts) -> int:
    """Bytes of what is there all the time; the activations of an update come on top."""
    trained = parts.agent.trained_parameters()
    weights = {id(weight): weight for module in parts.agent.modules for weight in module.parameters()}
    copies = [weight for key, weight in weights.items() if key not in {id(own) for own in trained}]
    networks = TRAINED_BYTES * sum(weight.numel() for weight in trained) + sum(weight.nbytes for weight in copies)
    return parts.replay.nbytes + networks


def make_parts(config, recipe: Recipe, device: torch.device) -> Parts:
    schedule = recipe.method.make_schedule(config)
    require_order(schedule, config.loop.order)
    environment = recipe.suite.make_environment(config, config.seed, 0, True)
    spaces = Spaces.of(environment)
    agent = recipe.method.make_agent(config, spaces, device)
    if config.compile:
        agent.compile()
        print("note: the first updates compile the networks, which takes minutes", file=sys.stderr)
    elif is_fused(config, device):
        for reason in agent.fuse(seconds_on(device)):
            print(f"note: not fused, torch's own operations run: {reason}", file=sys.stderr)
    replay = recipe.method.make_replay(config, spaces, device)
    return Parts(
        agent=agent,
        environment=environment,
        replay=replay,
        schedule=schedule,
        evaluate=partial(evaluate_weights, config, recipe, device),
        units=partial(recipe.suite.units, config),
        milestones=recipe.suite.milestones(config),
        update=recorded_updates(config, agent, replay, device) if is_captured(config, device) else None,
        draw=partial(recipe.method.draw, config, agent, replay) if recipe.method.draw else None,
    )


def recorded_updates(config, agent: Agent, replay: Any, device: torch.device) -> Callable[[Any, int, str], dict]:
    """The agent's updates as CUDA graphs; with the fused ways on two streams, where that agrees and is faster."""
    if agent.side is None or config.compile or not is_fused(config, device):
        return capture_updates(agent, replay)
    update, reason = capture_faster(agent, replay, config.precision, seconds_on(device))
    if reason:
        print(f"note: one stream alone: {reason}", file=sys.stderr)
    return update


def is_captured(config, device: torch.device) -> bool:
    """Tells whether updates run as CUDA graphs; no graph repeats what an update does on the host."""
    return config.capture == "auto" and device.type == "cuda" and config.without_host_work == config


def is_fused(config, device: torch.device) -> bool:
    """Tells whether fused kernels are tried; which of them is faster may differ from start to start."""
    return config.fused == "auto" and device.type == "cuda" and not config.deterministic


def evaluate_weights(
    config,
    recipe: Recipe,
    device: torch.device,
    weights: Path,
    index: int,
    video: Path | None,
    watch: Watch,
    workers: int = 0,
) -> list[dict]:
    """Rows of the evaluation's episodes, the same for any number of worker processes. Raises WorkerLost."""
    # Here too: this may be a process of its own.
    set_precision(config.precision, config.deterministic)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    seed = derive_seed(config.seed, "evaluation", index)
    with (
        episode_video(video) if video is not None else nullcontext() as film,
        make_environments(config, recipe, seed, film is not None, workers) as environments,
    ):
        player = recipe.method.make_player(config, weights, seed, device)
        episodes = play_episodes(player, environments, config.evaluation.episodes, film, watch)
    rows = episode_rows(episodes, partial(recipe.suite.columns, config))
    played = ({"environment_seed": seed, "actions": pack(episode.actions)} for episode in episodes)
    return [row | {PLAYED: how} for row, how in zip(rows, played, strict=True)]


def make_environments(config, recipe: Recipe, seed: int, film: bool, workers: int) -> Environments:
    """Environments of an evaluation, in this process where there are no workers."""
    evaluation, shape = config.evaluation, (config.evaluation.environments, *config.observation_shape)
    make = partial(recipe.suite.make_environment, config, seed, training=False)
    if workers:
        return SpreadEnvironments(make, shape, workers, evaluation.timeout_seconds, film)
    return LocalEnvironments(make, np.zeros(shape, np.uint8))
