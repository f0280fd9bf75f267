"""Clips of play, and the views and cosines that are drawn of them."""

import gymnasium
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from harness.config import ConfigError
from studies.clips import Clips, liveliest, make_clip, make_strategies, measure_agreement, play_clips
from studies.play import random_player
from tests.conftest import make_config
from tests.operations import make_spaces
from tests.recipes import ATARI


class Counter(gymnasium.Env):
    """Shows how many steps it has made, 100 more in each further episode."""

    def __init__(self, length):
        self.length, self.start = length, -100

    def reset(self):
        self.start, self.steps = self.start + 100, 0
        return np.full((1, 2, 2), self.start), {}

    def step(self, action):
        self.steps += 1
        observation, reward = np.full((1, 2, 2), self.start + self.steps), self.steps / 2
        return observation, reward, self.steps == self.length, False, {"raw_reward": reward}


def play_counter(length):
    return play_clips(
        Counter(length),
        lambda observations, first: observations[:, 0, 0, 0].astype(int) * 2,
        seq_len=3,
        count=3,
        skip=1,
    )


def test_a_clip_stays_within_an_episode():
    clips = play_counter(length=7)
    assert clips.frames[:, :, 0, 0, 0].T.tolist() == [[1, 2, 3], [4, 5, 6], [100, 101, 102]]
    assert torch.equal(clips.actions, 2 * clips.frames[:, :, 0, 0, 0])
    assert clips.rewards.T.tolist() == [[1.0, 1.5, 2.0], [2.5, 3.0, 3.5], [0.5, 1.0, 1.5]]
    with pytest.raises(ConfigError, match="too short"):
        play_counter(length=2)


def test_the_liveliest_clip_moves_all_the_time():
    frames = torch.zeros(6, 3, 2, 4, 4, dtype=torch.uint8)
    frames[3, 0] = 255  # a flash
    frames[::2, 1] = 40
    assert liveliest(Clips(frames, torch.zeros(6, 3), torch.zeros(6, 3))) == 1


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return make_config(tmp_path_factory.mktemp("none"))


@pytest.fixture
def make_objective(config):
    """A function that makes an objective with fresh generators, the same each time."""
    return lambda: ATARI.method.make_agent(config, make_spaces(config), torch.device("cpu")).auxiliary.objective


@pytest.fixture(scope="module")
def played(config):
    environment = ATARI.suite.make_environment(config, 1, 0, False)
    return play_clips(environment, random_player(environment, seed=1), 4, count=3, skip=20)


def drawn(pixels):
    """The newest frames of [K, 1, C, H, W], as a slow reference rounds them."""
    return np.clip(np.rint(pixels[:, 0, -1:].double().numpy()), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


@pytest.mark.parametrize("index", range(3))
def test_the_masked_row_is_the_frame_or_0(make_objective, played, index):
    clip = make_strategies(make_objective(), played.frames[:, 0], channels=1, seed=3)[index]
    assert clip.config.strategy == ("cube", "spatial", "temporal")[index]
    assert np.array_equal(clip.frames[..., 0], played.frames[:, 0, -1].numpy())
    hidden = np.kron(clip.mask, np.ones((12, 12), dtype=bool))[..., None]
    assert 0 < hidden.mean() < 1
    assert np.array_equal(clip.masked, np.where(hidden, 0, clip.frames))
    assert np.allclose(clip.hidden, hidden.mean(axis=(1, 2, 3)))


def test_the_views_are_the_objectives_own(config, make_objective, played):
    frames = played.frames[:, 1]
    objective = make_objective()
    clip = make_clip(objective, frames, objective.mask(), config.mlr.mask, channels=1, title="")
    again = make_objective()
    hidden = again.mask().numpy()[0]
    assert np.array_equal(clip.mask, hidden)
    left = frames.numpy() * ~np.kron(hidden, np.ones((12, 12), dtype=bool))[:, None]
    assert np.array_equal(clip.masked_view, drawn(again.augment_masked(torch.from_numpy(left).unsqueeze(1))))
    assert np.array_equal(clip.target_view, drawn(again.augment_target(frames.unsqueeze(1))))
    assert not np.array_equal(clip.target_view, clip.frames)


@torch.no_grad()
def test_agreement_is_the_cosine_of_prediction_and_target(config, make_objective, played):
    objective = make_objective()
    mask = objective.mask()
    agreement = measure_agreement(objective, played, mask)
    again = make_objective()
    again.mask()
    for frames, measured in ((played.frames, agreement.own), (played.frames[:, [2, 0, 1]], agreement.other)):
        hidden = torch.from_numpy(np.kron(mask[0], np.ones((12, 12), dtype=bool)))[:, None, None]
        pixels = again.augment_masked(played.frames * ~hidden) * config.mlr.masked_scale
        latents = torch.stack([again.encoder(step) for step in pixels], dim=1)  # [B, T, D]
        actions = again.owned["action_embedding"](played.actions.transpose(0, 1))
        prediction = again.owned["predictor"](again.projector(again.owned["decoder"](latents, actions)))
        target = torch.stack([again.targets["encoder"](step) for step in again.augment_target(frames)], dim=1)
        cosine = F.cosine_similarity(prediction, again.targets["projector"](target), dim=-1).T
        assert np.allclose(measured, cosine.numpy(), atol=1e-5)
    assert not np.allclose(agreement.own, agreement.other, atol=1e-4)
