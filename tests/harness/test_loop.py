"""The loop's cadence and order, on the real emulator and agent."""

import copy

import pytest
import torch
from rich.console import Console

from harness.exit_codes import DONE
from harness.parts import make_parts
from harness.run_folder import RunFolder, record_start
from harness.stop import StopRequest
from harness.training import train
from tests.conftest import make_config
from tests.recipes import ATARI


def train_in(tmp_path, name, *overrides):
    """A tiny run without evaluation; returns its parts, and the highest step that each update's batch could hold."""
    config = make_config(tmp_path / name, "evaluation.horizon=5", *overrides)
    before = copy.deepcopy(config)
    parts = make_parts(config, ATARI, torch.device("cpu"))
    reach = []
    sample = parts.replay.sample

    def recording_sample(*arguments):
        batch = sample(*arguments)
        age = (parts.replay.steps_begun - 1 - batch.indices) % parts.replay.capacity  # steps since the start
        reach.append((parts.replay.steps_begun, parts.replay.steps_stored, int(age.min())))
        return batch

    parts.replay.sample = recording_sample
    start(config, parts)
    assert config == before, "a configuration is never written to"
    return config, parts, reach


def start(config, parts):
    folder, console = RunFolder(config.run_dir), Console(quiet=True)
    with StopRequest() as stop:
        assert train(config, folder, parts, console, stop, started=lambda: record_start(config, {})) == DONE


def flat(state, prefix=""):
    for key, value in state.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def assert_equal_states(first, second):
    first, second = dict(flat(first)), dict(flat(second))
    assert first.keys() == second.keys()
    for key, value in first.items():
        equal = torch.equal(value, second[key]) if isinstance(value, torch.Tensor) else value == second[key]
        assert equal, key


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train_in(tmp_path_factory.mktemp("loop"), "first", "loop.order=overlapped")


def test_both_orders_are_bit_identical_and_updates_see_only_complete_windows(trained, tmp_path):
    config, overlapped, reach = trained
    _, released, reach_released = train_in(tmp_path, "released", "loop.order=released")
    assert_equal_states(overlapped.agent.state(), released.agent.state())
    assert_equal_states(overlapped.replay.state(), released.replay.state())
    steps = len(reach)
    assert steps == (config.agent_steps - config.loop.learning_starts) * config.loop.replay_ratio
    lag = 1 + config.agent.n_step + config.mlr.seq_len
    for begun, stored, newest in reach:
        assert stored == begun - 1  # the update runs while its own step is still under way
        assert newest >= lag  # a start is `lag` steps older than that step, so nothing of it is read
    assert [age for *_, age in reach] == [age for *_, age in reach_released]
    assert all(stored == begun for begun, stored, _ in reach_released)
    assert min(age for *_, age in reach) == lag, "the newest complete window was never drawn: the bound is not tested"


def test_two_equal_runs_are_equal_and_another_seed_is_not(trained, tmp_path):
    _, first, _ = trained
    _, second, _ = train_in(tmp_path, "second", "loop.order=overlapped")
    _, other, _ = train_in(tmp_path, "other", "seed=2", "agent_steps=62")
    assert_equal_states(first.agent.state(), second.agent.state())
    assert_equal_states(first.replay.state(), second.replay.state())
    weights = [parts.agent.networks.state_dict()["head.value_out.mean.weight"] for parts in (first, other)]
    assert not torch.equal(*weights)
    actions = [parts.replay.rows(0, 60)["actions"] for parts in (first, other)]
    assert not torch.equal(*actions)


def test_without_an_auxiliary_not_one_line_of_it_runs(tmp_path, monkeypatch):
    for name in ("atari.agent.whole_loss", "atari.agent.ActionEmbedding", "auxiliaries.mlr.Reconstruction"):
        monkeypatch.setattr(name, lambda *arguments, name=name, **named: pytest.fail(f"{name} ran"))
    _, baseline, reach = train_in(tmp_path, "baseline", "auxiliary=none", "agent_steps=70")
    assert baseline.agent.auxiliary is None
    assert len(reach) == 20
