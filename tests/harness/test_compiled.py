"""Updates whose networks torch's compiler writes, against eager ones. It needs a C++ compiler."""

import shutil

import pytest
import torch

from harness.compiled import compile_modules
from harness.config import ConfigError
from mlr.augmentation import RandomCrop
from tests.conftest import make_config, make_dmcontrol_config
from tests.operations import fill, make_agent_and_replay
from tests.recipes import ATARI, DMCONTROL

CASES = {"atari": (ATARI, make_config), "dmcontrol": (DMCONTROL, make_dmcontrol_config)}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_updates_are_traced_whole_and_are_the_eager_ones(name, monkeypatch):
    """With torch's own operations behind the tracer: compiling all of them takes minutes on a CPU."""
    monkeypatch.setattr("harness.compiled.BACKEND", "aot_eager")
    recipe, make_configuration = CASES[name]
    config, found = make_configuration("unused"), []
    for compiled in (False, True):
        torch._dynamo.utils.counters.clear()
        agent, replay = make_agent_and_replay(recipe, config, torch.device("cpu"))
        fill(replay, config)
        if compiled:
            agent.compile()
        found.append({key: float(value) for key, value in agent.update(replay, 60, "update").items()})
    counters = torch._dynamo.utils.counters
    assert not counters["graph_break"] and counters["stats"]["unique_graphs"] > 5
    assert found[1] == pytest.approx(found[0], rel=1e-5, abs=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_compiled_modules_compute_what_they_do(tmp_path, monkeypatch):
    """A crop with its brightness, and a predictor with its gradients, by inductor."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    agent, _ = make_agent_and_replay(ATARI, make_config("unused"), torch.device("cpu"))
    crop, predictor = RandomCrop(84, 84, 4, "slice"), agent.auxiliary.owned["predictor"]
    images = torch.arange(3 * 2 * 84 * 84, dtype=torch.int32).remainder(251).to(torch.uint8).view(3, 2, 84, 84)
    offsets, factor = torch.tensor([[0, 8], [3, 1], [8, 4]]), torch.tensor([0.9, 1.0, 1.1])
    projected = torch.rand(3, predictor.in_features)
    found = []
    for _ in range(2):
        predictor.zero_grad()
        predicted = predictor(projected)
        predicted.square().mean().backward()
        found.append([crop(images, offsets, factor), predicted.detach(), *(w.grad for w in predictor.parameters())])
        compile_modules([crop, predictor], torch.device("cpu"))
    for expected, actual in zip(*found, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-7)


def test_without_a_compiler_the_key_is_refused(monkeypatch):
    def fails(*given, **settings):
        raise RuntimeError("no C++ compiler\nand more")

    monkeypatch.setattr(torch, "compile", fails)
    with pytest.raises(ConfigError, match="compile=true: no C\\+\\+ compiler; use compile=false"):
        compile_modules([], torch.device("cpu"))
