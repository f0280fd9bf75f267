"""Whether updates could be recorded as CUDA graphs, as far as that shows without a GPU; tests/test_gpu.py has the rest.

A recording repeats kernels on the addresses that it saw: an update may not wait for the device, nor read or write the
host, nor have shapes that depend on data, nor rebind a tensor, nor count in Python.
"""

import copy

import numpy as np
import pytest
import torch

from dmcontrol.agent import GENERATORS
from harness import capture
from harness import parts as parts_of_runs
from harness.capture import WARM_UPS, capture_faster, capture_updates, drawn_from
from harness.inspection import inspect
from harness.operations import built_on_meta
from harness.parts import is_captured
from harness.run import run
from harness.streams import Side
from mlr.augmentation import RandomCrop
from tests.conftest import AUXILIARIES_OF, make_config, make_dmcontrol_config
from tests.operations import (
    OperationRecorder,
    assert_same,
    fill,
    held,
    make_agent_and_replay,
    make_spaces,
    places,
    plain_values,
)
from tests.recipes import ATARI, DMCONTROL

CPU = torch.device("cpu")
RECIPES = {"atari": (ATARI, make_config), "dmcontrol": (DMCONTROL, make_dmcontrol_config)}
SAMPLED = {"atari": (0.4, None), "dmcontrol": ()}  # further arguments of `sample`
CASES = [(name, aux) for name in RECIPES for aux in ("none", *AUXILIARIES_OF[name])]
SMALL = "agent.encoder.channels=[4,8,8] agent.hidden=16"
CASES += [("atari", f"spr ladder=bbf {SMALL}"), ("atari", f"mlr ladder=sr_spr {SMALL}")]  # further settings


def make(name, *overrides, device=CPU, steps=60):
    recipe, make_configuration = RECIPES[name]
    config = make_configuration("unused", *overrides)
    agent, replay = make_agent_and_replay(recipe, config, device)
    fill(replay, config, steps)
    return agent, replay


@pytest.mark.parametrize("name, aux", CASES)
def test_an_update_needs_no_value_and_nothing_from_the_host(name, aux):
    recipe, make_configuration = RECIPES[name]
    config = make_configuration("unused", *f"auxiliary={aux}".split())
    agent, replay = built_on_meta(recipe.method, config, make_spaces(config))
    for variant in dict.fromkeys(agent.cycle):
        with OperationRecorder("meta") as recorder:
            metrics = agent.update_on_device(replay, *variant)
        assert len(recorder.calls) > 100
        assert {value.device.type for value in metrics.values()} == {"meta"}


@pytest.mark.parametrize("name, aux", CASES)
def test_an_update_does_the_same_each_time_and_rebinds_nothing(name, aux):
    agent, replay = make(name, *f"auxiliary={aux}".split())
    before, values = places(agent, replay), plain_values(agent, replay)
    assert len(before) > 50
    for variant in dict.fromkeys(agent.cycle):
        agent.update_on_device(replay, *variant)
        recorded = []
        for _ in range(2):
            with OperationRecorder() as recorder:
                metrics = agent.update_on_device(replay, *variant)
            recorded.append(recorder.calls)
            assert all(value.shape == () and not value.requires_grad for value in metrics.values())
        assert recorded[0] == recorded[1] and len(recorded[0]) > 100
    assert places(agent, replay) == before
    assert plain_values(agent, replay) == values


@pytest.mark.parametrize("name, aux", CASES)
def test_a_loaded_state_continues_exactly_and_rebinds_nothing(name, aux):
    agent, replay = make(name, *f"auxiliary={aux}".split())
    other, other_replay = make(name, *f"auxiliary={aux}".split(), "seed=2", steps=0)
    for step in (60, 61):
        agent.update(replay, step, "update")
    before = places(other, other_replay)
    other_replay.load_rows(0, replay.rows(0, 60))
    other_replay.load_state(copy.deepcopy(replay.state()))
    other.load_state(copy.deepcopy(agent.state()))
    assert places(other, other_replay) == before
    for step in (62, 63):
        expected, actual = agent.update(replay, step, "update"), other.update(other_replay, step, "update")
        assert expected.keys() == actual.keys()
        assert [key for key in expected if not torch.equal(expected[key], actual[key])] == []
    stack = np.zeros_like(replay.sample(1, torch.Generator(), *SAMPLED[name]).obs[0].numpy())
    for step in (0, 99):
        assert np.array_equal(agent.act(stack, step, False), other.act(stack, step, False))
    assert_same(agent.state(), other.state())
    ours, theirs = held(agent, replay), held(other, other_replay)
    tensors = [path for path, value in ours.items() if isinstance(value, torch.Tensor)]
    assert [path for path in tensors if not torch.equal(ours[path], theirs[path])] == []
    assert places(other, other_replay) == before


@pytest.mark.parametrize("with_actor", [True, False])
def test_a_graph_names_only_the_generators_that_it_draws_from(with_actor):
    agent, replay = make("dmcontrol")
    streams = list(agent.random_streams())
    drawn = drawn_from(streams, lambda: agent.update_on_device(replay, with_actor))
    names = {name for name in GENERATORS if any(each is agent.generators[name] for each in drawn)}
    unused = {"noise_acting"} if with_actor else {"noise_acting", "noise_actor"}
    assert names == set(GENERATORS) - unused
    assert all(each in drawn for each in agent.auxiliary.generators)


def test_on_a_gpu_each_view_is_cropped_once(monkeypatch):
    """On the meta device, as on a GPU; critic and actor read the same pixels."""
    made, forward = [], RandomCrop.forward
    monkeypatch.setattr(RandomCrop, "forward", lambda *arguments: made.append(1) or forward(*arguments))
    config = make_dmcontrol_config("unused", "auxiliary=none")
    agent, replay = built_on_meta(DMCONTROL.method, config, make_spaces(config))
    agent.update_on_device(replay, True)
    assert len(made) == 2


# Warming up and recording, with a stand-in for the graphs


def record(update, replay, variants, generators, other=None):
    """What `capture.record` does, with Python's work repeated: the metrics stay where they were recorded."""
    for variant in variants * WARM_UPS:
        update(replay, *variant)
    metrics = {variant: update(replay, *variant) for variant in variants}

    def replayed(given, *variant):
        for key, value in update(given, *variant).items():
            metrics[variant][key].copy_(value)
        return metrics[variant]

    return replayed


@pytest.mark.parametrize("name, aux", CASES)
@pytest.mark.parametrize("steps", [0, 60])
def test_recording_leaves_agent_and_replay_as_they_were(name, aux, steps, monkeypatch):
    """Also on an empty replay, as at the start of every run."""
    monkeypatch.setattr(capture, "record", record)
    agent, replay = make(name, *f"auxiliary={aux}".split(), steps=steps)
    states, before = copy.deepcopy((agent.state(), replay.state())), places(agent, replay)
    eager = agent.update, agent.update_on_device
    capture_updates(agent, replay)
    assert_same(states[0], agent.state())
    assert_same(states[1], replay.state())
    assert places(agent, replay) == before and (agent.update, agent.update_on_device) == eager


@pytest.mark.parametrize("name", ["atari", pytest.param("dmcontrol", marks=pytest.mark.gl)])
def test_a_run_of_recorded_updates_is_the_same_run(name, request, tmp_path, monkeypatch):
    expected = request.getfixturevalue({"atari": "finished_run", "dmcontrol": "finished_dmcontrol_run"}[name])
    recipe, make_configuration = RECIPES[name]
    monkeypatch.setattr(capture, "record", record)
    monkeypatch.setattr(parts_of_runs, "is_captured", lambda config, device: True)
    assert run(make_configuration(tmp_path / "run"), recipe) == 0
    digests = [[part[:2] for part in inspect(folder)] for folder in (expected, tmp_path / "run")]
    assert digests[0] == digests[1] and len(digests[0]) == 9


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize(
    "races, seconds_on_two, reason",
    [(False, 1.0, ""), (False, 4.0, "takes 2.00 times as long"), (True, 1.0, "differs by")],
)
@pytest.mark.parametrize("steps", [0, 60])
def test_two_streams_are_taken_where_they_agree_and_are_faster(name, steps, races, seconds_on_two, reason, monkeypatch):
    """A CPU keeps the host's order of the work, so that a race has to be planted."""
    (agent, replay), (expected, other) = make(name, steps=steps), make(name, steps=steps)
    read_beside = next(agent.encoder.parameters()).detach()

    class SecondStream(Side):
        def fork(self):
            read_beside.mul_(0 if races else 1)
            return super().fork()

    monkeypatch.setattr(capture, "record", record)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: None)
    monkeypatch.setattr(capture, "Side", SecondStream)
    times = iter((seconds_on_two, 2.0))
    update, found = capture_faster(agent, replay, "fp32", lambda work: next(times) if work() else None)
    assert found.startswith(reason) and bool(found) == bool(reason)
    assert isinstance(agent.side, SecondStream) == (not reason)
    assert list(times) == ([1.0, 2.0] if races else []), "only what agrees is timed"
    assert torch.equal(replay.frames.frames, other.frames.frames)
    for each in (replay, other) if steps == 0 else ():
        fill(each, RECIPES[name][1]("unused"), 60)
    for step in (60, 61):
        actual, right = update(replay, step, "update"), expected.update(other, step, "update")
        assert [key for key in right if not torch.equal(actual[key], right[key])] == []
    assert_same(agent.state(), expected.state())


def test_one_stream_is_left_where_two_do_not_fit(monkeypatch):
    agent, replay = make("atari")
    one = agent.side

    def record_once(*arguments):
        if arguments[-1] is not None:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return record(*arguments)

    monkeypatch.setattr(capture, "record", record_once)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: None)
    _, reason = capture_faster(agent, replay, "fp32", lambda work: 1.0)
    assert "do not fit" in reason and agent.side is one


@pytest.mark.parametrize("name", RECIPES)
def test_a_recorded_update_still_asks_for_data_first(name, monkeypatch):
    monkeypatch.setattr(capture, "record", record)
    agent, replay = make(name, steps=0)
    update = capture_updates(agent, replay)
    with pytest.raises(RuntimeError, match="no (window|transition)"):
        update(replay, 60, "update")


def test_what_is_recorded():
    gpu = torch.device("cuda", 0)
    assert is_captured(make_config("unused"), gpu)
    assert not is_captured(make_config("unused"), CPU)
    assert not is_captured(make_config("unused", "capture=off"), gpu)
    assert not is_captured(make_config("unused", "augmentation.extra=[blur]"), gpu)
