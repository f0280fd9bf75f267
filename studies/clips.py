"""Clips of real play as the objective sees them, and the agreement of its predictions with their targets.

K steps of a clip, B clips, C H W a stacked observation, g cells a side of the mask.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from harness.config import ConfigError
from harness.evaluation import Player
from mlr.config import MaskConfig
from mlr.masking import enlarge, hide, sample_mask
from mlr.objective import MLR
from studies.pictures import Agreement, Clip
from studies.play import play

STRATEGIES = ("cube", "spatial", "temporal")


@dataclass
class Clips:
    """B stretches of K consecutive steps, each within one episode."""

    frames: Tensor  # uint8 [K, B, C, H, W], the observations
    actions: Tensor  # [K, B, ...], taken at them
    rewards: Tensor  # float32 [K, B], that followed


class Recorder:
    """A replay of whole clips: steps at the end of an episode that fill none are dropped."""

    def __init__(self, seq_len: int):
        self.seq_len = seq_len
        self.steps: list[tuple[np.ndarray, Any, float]] = []

    def begin_step(self) -> None:
        pass

    def store(self, observation, action, reward, terminated, truncated, next_observation, info) -> None:
        self.steps.append((observation, action, reward))
        if terminated or truncated:
            del self.steps[len(self.steps) // self.seq_len * self.seq_len :]


def play_clips(environment: gymnasium.Env, player: Player, seq_len: int, count: int, skip: int) -> Clips:
    """Plays until there are `count` clips, one after the other, the first after `skip` steps.

    Raises ConfigError where episodes are too short for that.
    """
    recorder = Recorder(seq_len)
    loop = play(environment, player, recorder)
    for _ in range(skip):
        loop.step()
    recorder.steps.clear()
    patience = 10 * count * seq_len
    for _ in range(patience):
        loop.step()
        if len(recorder.steps) == count * seq_len:
            observations, actions, rewards = zip(*recorder.steps, strict=True)
            rewards = np.array(rewards, dtype=np.float32)
            return Clips(*(_in_clips(values, seq_len) for values in (observations, actions, rewards)))
    raise ConfigError(f"{patience} steps hold no {count} clips of mlr.seq_len={seq_len} steps: episodes are too short")


def _in_clips(values: Sequence, seq_len: int) -> Tensor:
    """B * K values in a row -> [K, B, ...]."""
    return torch.from_numpy(np.stack(values)).unflatten(0, (-1, seq_len)).transpose(0, 1)


def liveliest(clips: Clips) -> int:
    """Index of the clip with the most movement: the largest median change from step to step."""
    change = clips.frames[:, :, -1].float().diff(dim=0).abs().mean(dim=(-2, -1))  # [K - 1, B], in the last channel
    return int(change.median(dim=0).values.argmax())


def make_clip(objective: MLR, frames: Tensor, mask: Tensor, config: MaskConfig, channels: int, title: str) -> Clip:
    """Panels of observations uint8 [K, C, H, W] under a mask bool [1, K, g, g]: their last `channels`.

    The views are the objective's own: every call draws new crops.
    """
    frames = frames.unsqueeze(1)  # [K, 1, C, H, W]
    masked = hide(frames, mask)

    def drawn(pixels: Tensor) -> np.ndarray:
        """[K, 1, C, H, W] -> uint8 [K, H, W, channels]."""
        return pixels[:, 0, -channels:].clamp(0, 255).round().byte().permute(0, 2, 3, 1).numpy()

    return Clip(
        title=title,
        frames=drawn(frames),
        masked=drawn(masked),
        masked_view=drawn(objective.augment_masked(masked)[...]),
        target_view=drawn(objective.augment_target(frames)[...]),
        mask=mask[0].numpy(),
        hidden=_hidden_share(mask, frames.shape[-1]),
        config=config,
    )


def make_strategies(objective: MLR, frames: Tensor, channels: int, seed: int) -> list[Clip]:
    """Panels of observations uint8 [K, C, H, W] under each strategy's mask; ratio and patch size stay."""
    clips = []
    for strategy in STRATEGIES:
        config = replace(objective.config.mask, strategy=strategy)
        generator = torch.Generator().manual_seed(seed)
        mask = sample_mask(config, objective.config.seq_len, frames.shape[-1], generator, "cpu")
        clips.append(make_clip(objective, frames, mask, config, channels, strategy))
    return clips


def measure_agreement(objective: MLR, clips: Clips, mask: Tensor) -> Agreement:
    """Cosines of predictions under `mask` bool [1, K, g, g] with their targets, and with those of the next clip.

    Both come from the objective's own loss; the second time its target branch gets the clips in another order.
    """
    measured = copy.copy(objective)  # shares the networks
    measured.config = replace(  # the loss is 1 - cosine
        objective.config, distance="cosine", distance_scale=0.5, norm_floor=1e-12, reward_weight=0.0
    )
    measured.mask = lambda: mask
    own = _cosines(measured, clips)
    measured.augment_target = lambda frames: objective.augment_target(frames.roll(1, dims=1))
    return Agreement(own=own, other=_cosines(measured, clips), hidden=_hidden_share(mask, clips.frames.shape[-1]))


@torch.no_grad()
def _cosines(objective: MLR, clips: Clips) -> np.ndarray:
    """[K, B]"""
    values = objective.loss(clips, objective.draw(clips.frames), slice(None))
    return 1 - values["loss"].numpy()


def _hidden_share(mask: Tensor, image_size: int) -> np.ndarray:
    """Share of hidden pixels in each step, [K]."""
    return enlarge(mask, image_size)[0].float().mean(dim=(-2, -1)).numpy()
