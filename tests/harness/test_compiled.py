"""Updates whose networks torch's compiler writes, against eager ones. It needs a C++ compiler."""

import shutil

import pytest
import torch

from harness.compiled import compile_modules
from harness.config import ConfigError
from tests.conftest import make_config, make_dmcontrol_config
from tests.operations import fill, make_agent_and_replay
from tests.recipes import ATARI, DMCONTROL

CASES = {"atari": (ATARI, make_config), "dmcontrol": (DMCONTROL, make_dmcontrol_config)}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.parametrize(
    "name, aux, backend",
    [("atari", "mlr", "aot_eager"), ("dmcontrol", "mlr", "aot_eager"), ("dmcontrol", "none", "inductor")],
)
def test_compiled_updates_are_traced_whole_and_are_the_eager_ones(name, aux, backend, tmp_path, monkeypatch):
    """With MLR torch's own operations are behind the tracer: g++ takes minutes for all of its kernels."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("harness.compiled.BACKEND", backend)
    recipe, make_configuration = CASES[name]
    config, found = make_configuration("unused", f"auxiliary={aux}"), []
    torch._dynamo.utils.counters.clear()
    for compiled in (False, True):
        agent, replay = make_agent_and_replay(recipe, config, torch.device("cpu"))
        fill(replay, config)
        if compiled:
            agent.compile()
        metrics = agent.update(replay, 60, "update")
        norms = [torch.stack([weight.grad.norm() for weight in agent.trained_parameters()])]
        found.append(([float(value) for key, value in metrics.items() if key.endswith("loss")], norms))
    counters = torch._dynamo.utils.counters
    assert not counters["graph_break"] and counters["stats"]["unique_graphs"] > 5
    assert bool(counters["inductor"]) == (backend == "inductor")
    (losses, norms), (compiled_losses, compiled_norms) = found
    assert len(losses) > 1 and compiled_losses == pytest.approx(losses, rel=1e-5, abs=1e-6)
    torch.testing.assert_close(compiled_norms, norms, rtol=1e-3, atol=1e-6)


def test_without_a_compiler_the_key_is_refused(monkeypatch):
    def fails(*given, **settings):
        raise RuntimeError("no C++ compiler\nand more")

    monkeypatch.setattr(torch, "compile", fails)
    with pytest.raises(ConfigError, match="compile=true: no C\\+\\+ compiler; use compile=false"):
        compile_modules([], torch.device("cpu"))
