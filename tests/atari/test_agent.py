import numpy as np
import pytest
import torch

from atari.agent import linear_ramp
from atari.training import ATARI
from mlr.training.run import make_parts
from tests.conftest import make_config
from tests.golden.atari_f_g import replay_f, replay_g
from tests.golden.check import DATA, assert_all
from tests.operations import OperationRecorder


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


def addresses(parts):
    """Where everything lives that an update reads and writes from one time to the next."""
    agent, replay = parts.agent, parts.replay
    tensors = [*agent.networks.parameters(), agent._noise, agent._previous_noise, agent._beta, agent._support]
    if agent.auxiliary is not None:
        tensors += [*agent.auxiliary.owned.parameters(), *agent.auxiliary.targets.parameters()]
    for optimizer in agent.optimizers.values():
        tensors += [value for entry in optimizer.state.values() for value in entry.values()]
    tensors += [
        replay.priorities.leaves,
        replay.count,
        replay.frames.frames,
        replay.actions,
        replay.rewards,
        replay.flags,
    ]
    return [tensor.data_ptr() for tensor in tensors]


@pytest.mark.parametrize("aux", ["mlr", "none"])
def test_an_update_could_be_captured(tmp_path, aux):
    """No wait for the device, the same operations and shapes each time, and nothing rebound."""
    parts = filled_parts(tmp_path, f"aux={aux}")
    before = addresses(parts)
    parts.agent.update(parts.replay, 70)
    recorded = []
    for _ in range(2):
        with OperationRecorder() as recorder:
            metrics = parts.agent.update_on_device(parts.replay)
        recorded.append(recorder.calls)
        assert all(value.shape == () and not value.requires_grad for value in metrics.values())
    assert recorded[0] == recorded[1] and len(recorded[0]) > 100
    assert addresses(parts) == before


def test_loading_a_state_rebinds_nothing(tmp_path):
    parts = filled_parts(tmp_path)
    parts.agent.update(parts.replay, 70)
    state = {"agent": clone(parts.agent.state()), "replay": clone(parts.replay.state())}
    before = addresses(parts)
    expected = parts.agent.update(parts.replay, 71)
    parts.agent.load_state(state["agent"])
    parts.replay.load_state(state["replay"])
    assert addresses(parts) == before
    actual = parts.agent.update(parts.replay, 71)
    assert expected.keys() == actual.keys()
    assert [key for key in expected if not torch.equal(expected[key], actual[key])] == []


def clone(state):
    if isinstance(state, dict):
        return {key: clone(value) for key, value in state.items()}
    return state.clone() if isinstance(state, torch.Tensor) else state


def test_acting_reuses_the_last_noise_and_explores_first(tmp_path):
    parts = filled_parts(tmp_path)
    observation, _ = parts.environment.reset()
    start = parts.agent.config.agent.epsilon_start
    assert len({parts.agent.act(observation, start) for _ in range(100)}) == 6
    greedy = {parts.agent.act(observation, start + 1) for _ in range(10)}
    assert len(greedy) == 1
    noise = parts.agent._noise.clone()
    logits = parts.agent.head(parts.agent.encoder(torch.from_numpy(observation)[None]), noise)
    values = (logits.softmax(-1) * parts.agent._support).sum(-1)
    assert greedy == {int(values.argmax())}
