"""Rainbow as a method: its parts from a configuration."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from atari.agent import RainbowAgent, TrainedAgent
from atari.config import AtariConfig, host_facts
from atari.replay import SequenceReplay
from atari.resets import number_due
from auxiliaries import make_auxiliary
from harness.header import describe_resets
from harness.recipe import Method, Spaces
from harness.schedule import make_ratio
from mlr.augmentation import Augmentation


def make_agent(config: AtariConfig, spaces: Spaces, device: torch.device) -> RainbowAgent:
    size = config.environment.image_size
    return RainbowAgent(
        config.agent,
        config.replay,
        host_facts(config),
        resets=config.resets,
        frame_stack=config.environment.frame_stack,
        actions=int(spaces.action.n),
        augment=Augmentation(config.augmentation, size, size),
        make_auxiliary=make_auxiliary(config),
        seed=config.seed,
        precision=config.precision,
        device=device,
    )


def make_replay(config: AtariConfig, spaces: Spaces, device: torch.device) -> SequenceReplay:
    size = config.environment.image_size
    return SequenceReplay(config.replay, config.agent, (size, size), config.environment.frame_stack, device)


def load_trained(config: AtariConfig, weights: Path, device: torch.device) -> TrainedAgent:
    return TrainedAgent(config.agent, config.observation_shape, weights, device)


def make_player(config: AtariConfig, weights: Path, seed: int, device: torch.device) -> Callable:
    agent = load_trained(config, weights, device)
    return partial(epsilon_greedy, agent, config.evaluation.epsilon, np.random.default_rng(seed))


def epsilon_greedy(
    agent: TrainedAgent, epsilon: float, generator: np.random.Generator, observations: np.ndarray, first: np.ndarray
) -> np.ndarray:
    """Actions int64 [B] for stacks uint8 [B, frames, H, W]: greedy, or uniform with probability `epsilon`."""
    greedy = agent.act(observations)
    explore = generator.random(len(greedy)) < epsilon
    return np.where(explore, generator.integers(agent.actions, size=len(greedy)), greedy)


def describe(config: AtariConfig, agent: RainbowAgent) -> list[str]:
    trained = sum(weight.numel() for weight in agent.trained_parameters())
    channels = "-".join(map(str, config.agent.encoder.channels))
    return [
        f"networks     {trained / 1e6:.2f} M trained parameters, convolutions {channels}, head {config.agent.hidden}",
        f"batch        {config.agent.batch_size} windows of {config.replay.window} steps",
        *describe_resets(config, number_due),
    ]


RAINBOW = Method(
    make_agent=make_agent,
    make_replay=make_replay,
    make_player=make_player,
    load_trained=load_trained,
    make_schedule=make_ratio,
    describe=describe,
)
