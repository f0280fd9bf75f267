"""Replays filled with noise, a batch of which costs what a batch of pictures does."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from atari.replay import SequenceReplay
from dmcontrol.replay import TransitionReplay
from harness.loop import Parts
from harness.seeding import Generators, numpy_generator
from mwm.replay import Episode, EpisodeReplay

OBSERVATIONS = 64  # distinct ones of a replay that is filled step by step
ROWS = 4096  # written at once

Draw = Callable[..., Tensor]


def fill_replay(config, parts: Parts, steps: int) -> None:
    """Stores `steps` steps, at most the capacity, in an empty replay: as rows if it is in FILLS, else one by one."""
    replay = parts.replay
    if type(replay) not in FILLS:
        return fill_by_steps(config, parts, steps)
    device = replay.frames.frames.device
    generator = Generators(config.seed, device, ("speed",))["speed"]

    def noise(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=device)

    def pictures(count: int) -> Tensor:
        shape = (count, *replay.frames.frames.shape[1:])
        return torch.randint(256, shape, dtype=torch.uint8, generator=generator, device=device)

    FILLS[type(replay)](replay, steps, noise, pictures, parts.environment.action_space)


def fill_by_steps(config, parts: Parts, steps: int, episode: int | None = None) -> None:
    """Stores noise step by step, in episodes of `episode` steps or in one that does not end."""
    space, generator = parts.environment.observation_space, numpy_generator(config.seed, "speed")
    episode = episode or steps + 1
    observations = generator.integers(0, 256, (OBSERVATIONS, *space.shape), np.uint8)
    for step in range(steps):
        observation, following = observations[step % OBSERVATIONS], observations[(step + 1) % OBSERVATIONS]
        action, reward = parts.environment.action_space.sample(), float(generator.random())
        parts.replay.begin_step()
        truncated = (step + 1) % episode == 0
        parts.replay.store(observation, action, reward, False, truncated, following, {"life_lost": False})


def fill_sequences(replay: SequenceReplay, steps: int, noise: Draw, pictures: Draw, actions) -> None:
    for start in range(0, steps, ROWS):
        count = min(ROWS, steps - start)
        rows = {"actions": (noise(count) * actions.n).long(), "rewards": noise(count)}
        flags = torch.zeros(count, 3, dtype=torch.bool)
        replay.load_rows(start, rows | {"frames": pictures(count), "flags": flags})
    leaves = torch.zeros_like(replay.priorities.leaves)
    leaves[replay.history : max(steps - replay.lag, 0)] = replay.config.default_priority**replay.config.alpha
    replay.load_state(replay.state() | {"steps_begun": steps, "steps_stored": steps, "leaves": leaves})


def fill_transitions(replay: TransitionReplay, steps: int, noise: Draw, pictures: Draw, actions) -> None:
    for start in range(0, steps, ROWS):
        count = min(ROWS, steps - start)
        numbers = torch.arange(start, start + count + 1)
        rows = {"actions": 2 * noise(count, *actions.shape) - 1, "rewards": noise(count)}
        rows |= {"newest_frames": numbers[:-1], "since_first": numbers[:-1], "frame_numbers": numbers}
        flags = torch.zeros(count, 2, dtype=torch.bool)
        replay.load_rows(start, rows | {"frames": pictures(count + 1), "flags": flags})
    newest = max(steps - 1 - replay.window, -1)
    starts = torch.zeros_like(replay.starts.leaves)
    starts[: newest + 1] = 1.0
    counts = {"steps_stored": steps, "frames_stored": steps + 1, "episode_step": steps}
    replay.load_state(counts | {"oldest": 0, "newest_start": newest, "starts": starts})


def fill_episodes(replay: EpisodeReplay, steps: int, noise: Draw, pictures: Draw, actions) -> None:
    """Episodes of the usual length: windows lie in finished ones alone."""
    length = replay.usual_episode
    begins = torch.arange(0, steps, length)
    for start in range(0, steps, ROWS):
        count = min(ROWS, steps - start)
        first = torch.nonzero((begins >= start) & (begins < start + count)).flatten()
        rows = {"actions": 2 * noise(count, *actions.shape) - 1, "rewards": noise(count)}
        rows |= {"terminal": torch.zeros(count, dtype=torch.bool), "pictures": pictures(count)}
        replay.load_rows(start, rows | {"first_numbers": first, "first_pictures": pictures(len(first))})
    whole = steps // length
    episodes = [
        Episode(number, number * length, min(length, steps - number * length) + 1) for number in range(len(begins))
    ]
    state = {"steps_stored": steps, "begun": len(episodes), "episodes": episodes[:whole], "running": episodes[whole:]}
    replay.load_state(replay.state() | state)


FILLS = {SequenceReplay: fill_sequences, TransitionReplay: fill_transitions, EpisodeReplay: fill_episodes}
