import copy

import numpy as np
import pytest
import torch

from atari.agent import linear_ramp
from harness.parts import make_parts
from tests.conftest import make_config
from tests.golden.atari_f_g import replay_f, replay_g
from tests.golden.check import DATA, assert_all
from tests.operations import fill, make_agent_and_replay
from tests.recipes import ATARI


def test_schedules_and_counts_match_the_reference():
    assert_all(replay_f(DATA / "atari"))


def test_whole_updates_match_the_reference():
    assert_all(replay_g(DATA / "atari"))


def test_the_paper_s_schedules():
    config = make_config("unused", "preset=full", "device=cpu").agent
    ramp = (config.epsilon_initial, config.epsilon_final, config.epsilon_start, config.epsilon_steps)
    assert [linear_ramp(step, *ramp) for step in (0, 2000, 2001, 99_999)] == [1, 1, 0, 0]
    replay = make_config("unused", "preset=full").replay
    ramp = (replay.beta_initial, replay.beta_final, replay.beta_start, replay.beta_end - replay.beta_start)
    beta = [linear_ramp(step - 1, *ramp) for step in (2000, 2001, 2002, 99_999)]
    assert beta == pytest.approx([0.4, 0.4, 0.4 + 0.6 / 98_000, 1 - 2 * 0.6 / 98_000])


def filled_parts(tmp_path, *overrides, steps=70):
    """Parts of a tiny run after some random steps."""
    parts = make_parts(make_config(tmp_path, *overrides), ATARI, torch.device("cpu"))
    observation, _ = parts.environment.reset()
    rng = np.random.default_rng(0)
    for _ in range(steps):
        action = int(rng.integers(6))
        parts.replay.begin_step()
        following, reward, terminated, truncated, info = parts.environment.step(action)
        parts.replay.store(observation, action, reward, terminated, truncated, None, info)
        observation = following
    return parts


def test_acting_reuses_the_last_noise_and_explores_first(tmp_path):
    parts = filled_parts(tmp_path)
    observation, _ = parts.environment.reset()
    start = parts.agent.config.epsilon_start
    assert len({parts.agent.act(observation, start, False) for _ in range(100)}) == 6
    greedy = {parts.agent.act(observation, start + 1, False) for _ in range(10)}
    assert len(greedy) == 1
    noise = parts.agent._noise.clone()
    logits = parts.agent.head(parts.agent.encoder(torch.from_numpy(observation)[None]), noise)
    values = (logits.softmax(-1) * parts.agent._support).sum(-1)
    assert greedy == {int(values.argmax())}


def test_latents_are_watched_channel_by_channel_and_beside_the_fresh_network_s():
    config = make_config("unused", "auxiliary=none", "ladder=resets", "resets.every=31", "loop.learning_starts=30")
    agent, replay = make_agent_and_replay(ATARI, config, torch.device("cpu"))
    fill(replay, config)
    channels = config.agent.encoder.channels[-1]
    seen = []
    agent.encoder.register_forward_hook(lambda module, inputs, output: seen.append(output.detach().numpy()))

    def spread_and_metrics():
        seen.clear()
        metrics = agent.update(replay, 60, "update")
        return seen[-1].std(0).mean(), metrics

    first, metrics = spread_and_metrics()
    assert metrics["rl_latent_spread_of_fresh"] == 1
    with torch.no_grad():
        agent.encoder.stages["conv3"][0].bias[0] = -1e6  # a channel dies
    agent.load_state(copy.deepcopy(agent.state()))
    second, metrics = spread_and_metrics()
    assert metrics["rl_latent_spread_of_fresh"].item() == pytest.approx(second / first, rel=1e-4)
    maps = seen[-1].reshape(len(seen[-1]), channels, -1)
    dead = sum(not maps[:, channel].any() for channel in range(channels))
    assert metrics["rl_dead_channels"].item() == pytest.approx(dead / channels)
    assert 0 < dead < channels
    agent.end_of_updates(32)
    assert spread_and_metrics()[1]["rl_latent_spread_of_fresh"] == 1
