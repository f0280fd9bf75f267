"""Figures of the world model of a run of Masked World Models, on an episode that its agent plays."""

from contextlib import closing
from pathlib import Path

import gymnasium
import numpy as np
import torch

from harness.config import require
from harness.run_folder import RunFolder
from mwm.agent import TrainedAgent
from mwm.figures import Model, Played, draw_world_model
from recipes import load_agent, load_config, load_recipe


def show(config, run: Path, beside: Path | None, out: Path) -> list[Path]:
    """Plays an episode that no training saw, and draws; `beside` is a run whose masks are set beside this one's."""
    model, agent = trained_model(run)
    other = None
    if beside is not None:
        other, _ = trained_model(beside)
        sizes = [load_config(each).environment.image_size for each in (run, beside)]
        require(sizes[0] == sizes[1], f"{run} and {beside} have pictures of {sizes[0]} and {sizes[1]} pixels a side")
    with closing(load_recipe(config).suite.make_environment(config, config.seed, 0, False)) as environment:
        episode = play_episode(environment, agent)
    return draw_world_model(model, episode, config.replay.window, out / config.task, config.seed, other)


def trained_model(run: Path) -> tuple[Model, TrainedAgent]:
    config, weights = load_config(run), RunFolder(run).saved_weights()
    agent = load_agent(run)
    name = f"{config.task}, {config.mwm.stem} stem, after {int(weights.stem):,} agent steps"
    return Model(config.mwm, agent.parts, name), agent


def play_episode(environment: gymnasium.Env, agent: TrainedAgent) -> Played:
    """A whole episode of the agent's."""
    picture, _ = environment.reset()
    pictures, actions, over = [picture], [np.zeros(environment.action_space.shape, np.float32)], False
    while not over:
        first = np.array([len(pictures) == 1])
        (action,) = agent.act(pictures[-1][None], first)
        picture, _, terminated, truncated, _ = environment.step(action)
        pictures.append(picture)
        actions.append(action)
        over = terminated or truncated
    return Played(torch.from_numpy(np.stack(pictures)), torch.from_numpy(np.stack(actions)))
