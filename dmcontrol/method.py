"""SAC as a method: its parts from a configuration."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from auxiliaries import make_auxiliary
from dmcontrol.agent import SACAgent, TrainedAgent
from dmcontrol.config import RGB, DMControlConfig, host_facts
from dmcontrol.replay import TransitionReplay
from dmcontrol.resets import number_due
from harness.header import describe_resets
from harness.recipe import Method, Spaces
from harness.schedule import make_ratio
from mlr.augmentation import Augmentation


def make_agent(config: DMControlConfig, spaces: Spaces, device: torch.device) -> SACAgent:
    augment = None
    if config.augmentation is not None:
        augment = Augmentation(config.augmentation, config.environment.image_size, config.agent.crop_size)
    return SACAgent(
        config.agent,
        host_facts(config),
        resets=config.resets,
        frame_stack=config.environment.frame_stack,
        action_size=spaces.action.shape[0],
        random_steps=config.loop.learning_starts,
        make_auxiliary=make_auxiliary(config),
        augment=augment,
        aux_optimizer=config.aux_optimizer,
        aux_networks=config.aux_networks,
        seed=config.seed,
        precision=config.precision,
        device=device,
    )


def make_replay(config: DMControlConfig, spaces: Spaces, device: torch.device) -> TransitionReplay:
    size, stack = config.environment.image_size, config.environment.frame_stack
    return TransitionReplay(
        capacity=min(config.replay.capacity, config.agent_steps),  # a run of more steps may go on from this one
        window=config.replay.window,
        frame_shape=(RGB, size, size),
        frame_stack=stack,
        action_size=spaces.action.shape[0],
        device=device,
        min_episode=config.episode_agent_steps,
    )


def load_trained(config: DMControlConfig, weights: Path, device: torch.device) -> TrainedAgent:
    return TrainedAgent(config.agent, config.observation_shape, weights, device)


def make_player(config: DMControlConfig, weights: Path, seed: int, device: torch.device) -> Callable:
    return partial(act, load_trained(config, weights, device))


def act(agent: TrainedAgent, observations: np.ndarray, first: np.ndarray) -> np.ndarray:
    """The mean's actions float32 [B, A] for stacks uint8 [B, C, H, W]; without memory `first` says nothing."""
    return agent.act(observations)


def describe(config: DMControlConfig, agent: SACAgent) -> list[str]:
    encoder, auxiliary = config.agent.encoder, agent.auxiliary
    views = f" in {config.agent.rl_views} views" if config.agent.rl_views > 1 else ""
    batch = f"batch        {config.agent.batch_size} transitions{views}"
    if auxiliary is not None and auxiliary.reads.source == "windows":
        batch += f"; {config.aux_optimizer.batch_size} windows of {auxiliary.reads.steps} steps"
    trained = sum(weight.numel() for weight in agent.trained_parameters())
    return [
        f"networks     {trained / 1e6:.2f} M trained parameters, {len(encoder.strides)} convolutions of "
        f"{encoder.filters} filters, latent {encoder.latent}, heads {config.agent.hidden}",
        batch,
        *describe_resets(config, number_due),
    ]


SAC = Method(
    make_agent=make_agent,
    make_replay=make_replay,
    make_player=make_player,
    load_trained=load_trained,
    make_schedule=make_ratio,
    describe=describe,
)
