"""The agent on random batches: isolation of gradients, memory, states, and updates that could be recorded."""

import copy

import numpy as np
import pytest
import torch

from harness.weights import write_weights
from mwm.agent import MWMAgent, TrainedAgent
from mwm.batch import PictureBatch, WindowBatch
from mwm.config import KINDS
from tests.golden.check import DATA
from tests.golden.mwm_weights import make_section, read_sizes
from tests.operations import OperationRecorder, places, plain_values

SIZES = read_sizes(DATA / "mwm")
SIZE, ACTIONS = SIZES["picture"], SIZES["actions"]
TRAINED = {"autoencoder": {"autoencoder"}, "dynamics": {"dynamics", "actor", "critic", "target"}}


class Fixed:
    """Batches that stay."""

    def __init__(self, device="cpu"):
        generator = torch.Generator().manual_seed(3)

        def pictures(*shape):
            return torch.randint(256, (*shape, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator).to(device)

        def normal(*shape):
            return torch.randn(shape, generator=generator).to(device)

        first = torch.zeros(2, 4, dtype=torch.bool)
        first[:, 0] = True
        self._pictures = PictureBatch(pictures(6), normal(6))
        self._windows = WindowBatch(
            pictures(2, 4), normal(2, 4, ACTIONS), normal(2, 4), first.to(device), torch.zeros_like(first).to(device)
        )

    def draw(self, kind):
        assert kind in KINDS

    def pictures(self):
        return self._pictures

    def windows(self):
        return self._windows


def make(device="cpu", seed=0, **changes):
    changes = {"mask_ratio": 0.75} | changes
    return MWMAgent(
        make_section(SIZES, **changes), image_size=SIZE, action_size=ACTIONS, random_steps=10, seed=seed,
        precision="fp32", device=torch.device(device),
    )  # fmt: skip


def weights(agent):
    parts = {"autoencoder": agent.autoencoder, "dynamics": agent.dynamics}
    parts |= {name: getattr(agent.behaviour, name) for name in ("actor", "critic", "target")}
    return {name: copy.deepcopy(part.state_dict()) for name, part in parts.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_an_update_changes_the_weights_of_its_own_parts_alone(kind):
    agent, replay = make(), Fixed()
    agent.update(replay, 10, "autoencoder")  # whose first step has the rate 0
    before = weights(agent)
    agent.update(replay, 10, kind)
    after = weights(agent)
    changed = {n for n in before if any(not torch.equal(v, after[n][k]) for k, v in before[n].items())}
    assert changed == TRAINED[kind]


@pytest.mark.parametrize("discount", [False, True])
def test_an_update_needs_no_value_and_nothing_from_the_host(discount):
    with torch.device("meta"):
        agent = make("meta", discount_head=discount)
    for optimizer in agent.optimizers.values():
        optimizer.step = lambda: None
    replay = Fixed("meta")
    for (kind,) in agent.cycle:
        with OperationRecorder("meta") as recorder:
            metrics = agent.update_on_device(replay, kind)
        assert len(recorder.calls) > 100 and {value.device.type for value in metrics.values()} == {"meta"}


def test_an_update_does_the_same_each_time_and_rebinds_nothing():
    agent, replay = make(), Fixed()
    before, values = places(agent), plain_values(agent)
    for (kind,) in agent.cycle:
        agent.update_on_device(replay, kind)
        recorded = []
        for _ in range(2):
            with OperationRecorder() as recorder:
                metrics = agent.update_on_device(replay, kind)
            recorded.append(recorder.calls)
            assert all(value.shape == () and not value.requires_grad for value in metrics.values())
        assert recorded[0] == recorded[1]
    assert places(agent) == before and plain_values(agent) == values


def test_a_loaded_state_continues_exactly():
    agent, other, replay = make(), make(seed=1), Fixed()
    picture = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE), dtype=np.uint8)
    for kind in KINDS:
        agent.update(replay, 10, kind)
    agent.act(picture, 10, True)
    before = places(other)
    other.load_state(copy.deepcopy(agent.state()))
    for kind in KINDS:
        expected, actual = (one.update(replay, 10, kind) for one in (agent, other))
        assert [name for name in expected if not torch.equal(expected[name], actual[name])] == []
    assert np.array_equal(agent.act(picture, 11, False), other.act(picture, 11, False))
    assert places(other) == before


def test_memory_begins_anew_where_an_episode_does():
    agent = make()
    picture = np.full((3, SIZE, SIZE), 90, np.uint8)
    state = copy.deepcopy(agent.generators.state())
    actions = []
    for first in (True, False, True):
        agent.generators.load_state(copy.deepcopy(state))
        actions.append(agent.act(picture, 20, first))
    assert np.array_equal(actions[0], actions[2]) and not np.array_equal(actions[0], actions[1])
    assert all(np.abs(action).max() <= 1 for action in actions)


def test_training_explores_and_a_trained_agent_takes_the_mean(tmp_path):
    """Only the policy's deviation differs between the two agents."""
    picture = np.full((3, SIZE, SIZE), 90, np.uint8)
    explored, played = [], []
    for number in range(2):
        agent, file = make(), tmp_path / str(number) / "000000001.safetensors"
        with torch.no_grad():
            agent.behaviour.actor.std.bias.add_(number)
        explored.append(agent.act(picture, 20, True))
        write_weights(agent.acting, file)
        trained = TrainedAgent(agent.section, SIZE, file)
        played.append(trained.act(picture[None], np.ones(1, bool)))
    assert not np.array_equal(*explored) and np.array_equal(*played)
