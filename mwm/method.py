"""MWM as a method: its parts from a configuration."""

from collections.abc import Callable
from pathlib import Path

import torch

from harness.recipe import Method, Spaces
from mwm.agent import MWMAgent, TrainedAgent
from mwm.cells import hidden
from mwm.config import WORLD_MODELS, MWMConfig, MWMSection
from mwm.replay import EpisodeReplay, WindowRule
from mwm.schedule import Rounds


def make_agent(config: MWMConfig, spaces: Spaces, device: torch.device) -> MWMAgent:
    return MWMAgent(
        config.mwm,
        image_size=config.environment.image_size,
        action_size=spaces.action.shape[0],
        random_steps=config.loop.learning_starts,
        seed=config.seed,
        precision=config.precision,
        device=device,
    )


def make_replay(config: MWMConfig, spaces: Spaces, device: torch.device) -> EpisodeReplay:
    replay, batch = config.replay, config.mwm.batch
    return EpisodeReplay(
        capacity=min(replay.capacity, config.agent_steps),  # a run of more steps may go on from this one
        rule=WindowRule(replay.shortest_window, replay.window, replay.prioritize_ends),
        batch_pictures=batch.pictures,
        batch_windows=batch.windows,
        image_size=config.environment.image_size,
        action_size=spaces.action.shape[0],
        usual_episode=config.episode_agent_steps,
        seed=config.seed,
        device=device,
    )


def make_schedule(config: MWMConfig) -> Rounds:
    section = config.mwm
    kinds = WORLD_MODELS[section.world_model]
    return Rounds(config.loop.learning_starts, section.schedule, section.update_at, kinds)


def load_trained(config: MWMConfig, weights: Path, device: torch.device) -> TrainedAgent:
    return TrainedAgent(config.mwm, config.environment.image_size, weights, device)


def make_player(config: MWMConfig, weights: Path, seed: int, device: torch.device) -> Callable:
    """The trained agent with a memory for each slot of an evaluation."""
    slots, size = config.evaluation.environments, config.environment.image_size
    return TrainedAgent(config.mwm, size, weights, device, slots=slots, seed=seed).act


def describe(config: MWMConfig, agent: MWMAgent) -> list[str]:
    section, rssm = config.mwm, config.mwm.rssm
    trained = sum(weight.numel() for weight in agent.trained_parameters())
    lines = [
        f"world model  {section.world_model}, {trained / 1e6:.2f} M trained parameters with actor and critic, "
        f"state {rssm.deter} + {rssm.variables} x {rssm.classes}"
    ]
    batch = f"{section.batch.windows} windows of {config.replay.window}"
    pretraining = "2 updates"
    if section.world_model == "mwm":
        lines += describe_autoencoder(section, config.environment.image_size)
        batch = f"{section.batch.pictures} pictures; {batch}"
        pretraining = f"{section.schedule.pretraining + 1:,} autoencoder updates"
    return [
        *lines,
        f"batch        {batch}",
        f"schedule     {config.loop.learning_starts:,} random steps, {pretraining}, then one round every "
        f"{section.schedule.every} steps",
    ]


def describe_autoencoder(section: MWMSection, image_size: int) -> list[str]:
    encoder, (tokens, dropped, share) = section.encoder, hidden(section, image_size)
    return [
        f"autoencoder  ViT of {encoder.blocks} and {section.decoder.blocks} blocks, {encoder.width} wide",
        f"mask         {dropped} of {tokens} tokens of a {section.stem} stem, which hides {share:.1%} of the pixels",
    ]


def draw(config: MWMConfig, agent: MWMAgent, replay: EpisodeReplay, folder: Path, agent_steps: int) -> list[Path]:
    """Figures of the world model after `agent_steps`, of the newest episode in the replay."""
    newest = replay.newest()
    if newest is None:
        return []
    from mwm.figures import Model, Played, draw_world_model  # imports matplotlib

    model = Model(config.mwm, agent.acting, f"{config.task} after {agent_steps:,} agent steps")
    stem = folder / f"world_model_{agent_steps:09d}"
    return draw_world_model(model, Played(*newest), config.replay.window, stem, config.seed)


MWM = Method(
    make_agent=make_agent,
    make_replay=make_replay,
    make_player=make_player,
    load_trained=load_trained,
    make_schedule=make_schedule,
    describe=describe,
    draw=draw,
)
