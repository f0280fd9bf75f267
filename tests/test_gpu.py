"""What only a GPU can show: pytest -m gpu. Where a CPU can stand in for it, the same comparison runs there as well."""

import itertools
import json
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch.overrides import TorchFunctionMode

from harness.capture import capture_faster, capture_updates
from harness.inspection import inspect
from harness.means import MetricMeans
from harness.optimizers import adam_state
from harness.parts import choose_device
from harness.precision import set_precision
from tests.conftest import ROOT, make_config, make_dmcontrol_config
from tests.operations import fill, make_agent_and_replay, places
from tests.recipes import ATARI, DMCONTROL
from tests.waiting import HANG

RECIPES = {"atari": (ATARI, make_config), "dmcontrol": (DMCONTROL, make_dmcontrol_config)}
CASES = [(name, aux) for name in RECIPES for aux in ("mlr", "none")]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(autouse=True)
def full_precision():
    set_precision("fp32", deterministic=False)
    yield
    set_precision("fp32", deterministic=False)


class HostDraws(TorchFunctionMode):
    """Random numbers as the CPU draws them, on every device: from twins of the generators, with their seeds."""

    def __init__(self):
        super().__init__()
        self._twins = {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        generator = kwargs.get("generator")
        if func not in (torch.rand, torch.randn) or generator is None:
            return func(*args, **kwargs)
        twin = self._twins.setdefault(id(generator), torch.Generator().manual_seed(generator.initial_seed()))
        return func(*args, **kwargs | {"generator": twin, "device": "cpu"}).to(kwargs["device"])


def make(name, device, *overrides, steps=60):
    recipe, make_configuration = RECIPES[name]
    config = make_configuration("unused", *overrides)
    agent, replay = make_agent_and_replay(recipe, config, choose_device(device))
    fill(replay, config, steps)
    return agent, replay


def norms(tensors):
    return [float(tensor.double().norm()) for tensor in tensors]


def updated(agent, replay, count=3, update=None):
    """Metrics of `count` updates, the gradients that the first left behind, and the weights after the last.

    A recording leaves its gradients in its own memory: those of an agent that has one mean nothing.
    """
    rows, gradients = [], []
    for step in range(count):
        rows.append({key: value.item() for key, value in (update or agent.update)(replay, 60 + step, "update").items()})
        of_shadows = {weight: shadow.grad for adam in agent.optimizers.values() for weight, shadow in adam.shadows}
        trained = agent.trained_parameters()
        gradients = gradients or [of_shadows.get(weight, weight.grad).cpu().float() for weight in trained]
    return rows, gradients, [parameter.detach().cpu() for parameter in agent.trained_parameters()]


def assert_metrics_near(actual, expected, tolerance):
    for row, other in zip(actual, expected, strict=True):
        assert row == pytest.approx(other, rel=tolerance, abs=tolerance / 100)


def assert_tensors_near(actual, expected, tolerance, floor):
    """The norm of each difference, relative to the norm of what is expected or, if that is less, to `floor`."""
    for first, second in zip(actual, expected, strict=True):
        difference, size = norms((first - second, second))
        assert difference <= tolerance * max(size, floor), f"{tuple(second.shape)}: {difference} off, of {size}"


def another_way_to_compute(device):
    """On the CPU: without the library that multiplies, so that sums are added up in another order."""
    return torch.backends.mkldnn.flags(enabled=False) if device == "cpu" else nullcontext()


@pytest.mark.filterwarnings("ignore:TF32 acceleration")
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name, aux", CASES)
def test_a_device_computes_what_the_cpu_computes(name, aux, device):
    """One update. Adam's first step is little but the gradient's sign, so weights are compared by their direction."""
    set_precision("fp32", deterministic=True)  # no kernel that trades digits for speed
    with HostDraws():
        agent, replay = make(name, "cpu", f"auxiliary={aux}")
        before = [parameter.detach().clone() for parameter in agent.trained_parameters()]
        expected = updated(agent, replay, count=1)
    with HostDraws(), another_way_to_compute(device):
        actual = updated(*make(name, device, f"auxiliary={aux}"), count=1)
    # Or it was the same computation, as of the Baseline on an Intel CPU, where MKL multiplies either way.
    assert actual[0] != expected[0] or (device, aux) == ("cpu", "none")
    assert_metrics_near(actual[0], expected[0], tolerance=1e-3)
    # Some gradients are sums that cancel, and are nothing but rounding: the largest of all is their measure.
    largest = max(norms(expected[1]))
    assert_tensors_near(actual[1], expected[1], tolerance=1e-3, floor=largest / 100)
    steps = [torch.cat([(new - old).double().flatten() for new, old in zip(run[2], before, strict=True)])
             for run in (actual, expected)]  # fmt: skip
    cosine = float(torch.cosine_similarity(*steps, dim=0))
    assert cosine > 0.99, f"cosine {cosine} of steps with norms {norms(steps)}; gradients {norms(expected[1])}"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["tf32", "bf16"])
@pytest.mark.parametrize("name", RECIPES)
def test_less_precision_changes_little(name, precision, device):
    """Losses and the direction of the gradients; docs/performance.md has the numbers of the real sizes."""
    expected = updated(*make(name, device), count=1)
    set_precision(precision, deterministic=False)
    actual = updated(*make(name, device, f"precision={precision}"), count=1)
    losses = [key for key in expected[0][0] if key.endswith("loss")]
    assert {key: actual[0][0][key] for key in losses} == pytest.approx(
        {key: expected[0][0][key] for key in losses}, rel=0.05, abs=0.01
    )
    first, second = (torch.cat([gradient.flatten() for gradient in run[1]]) for run in (actual, expected))
    assert torch.cosine_similarity(first.double(), second.double(), dim=0) > 0.95


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("name, aux", CASES)
def test_recorded_updates_are_the_eager_ones(name, aux, precision):
    """They draw the same numbers; their kernels may be others, as cuBLAS chooses for each stream."""
    set_precision(precision, deterministic=precision == "fp32")
    overrides = (f"auxiliary={aux}", f"precision={precision}")
    agent, replay = make(name, "cuda", *overrides)
    recorded, other = make(name, "cuda", *overrides)
    before = places(recorded, other)
    update = capture_updates(recorded, other)
    expected, _, weights = updated(agent, replay)
    actual, _, other_weights = updated(recorded, other, update=update)
    tolerance = 1e-4 if precision == "fp32" else 0.05
    assert_metrics_near(actual, expected, tolerance)
    assert_tensors_near(other_weights, weights, tolerance, floor=0.1)
    assert all(
        torch.equal(state, recorded.generators.state()[name])
        for name, state in agent.generators.state().items()
        if name != "device"
    )
    assert places(recorded, other) == before


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("name, aux", CASES)
def test_fused_updates_are_those_of_torch_s_operations(name, aux, precision):
    """Every way is taken, whether it is faster here or not; one update, as Adam's first steps follow signs."""
    set_precision(precision, deterministic=False)
    overrides = (f"auxiliary={aux}", f"precision={precision}")
    (plain, replay), (fused, other) = make(name, "cuda", *overrides), make(name, "cuda", *overrides)
    clock = itertools.cycle((1.0, 2.0))  # of the fused way, then of torch's
    assert fused.fuse(lambda work: next(clock)) == []
    expected, actual = updated(plain, replay, count=1), updated(fused, other, count=1)
    assert_metrics_near(actual[0], expected[0], 1e-3 if precision == "fp32" else 0.05)
    first, second = (torch.cat([gradient.flatten().double() for gradient in run[1]]) for run in (actual, expected))
    assert torch.cosine_similarity(first, second, dim=0) > (0.9999 if precision == "fp32" else 0.95)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("name, aux", CASES)
def test_updates_as_runs_make_them_are_torch_s_eager_ones(name, aux, precision):
    """Recorded, with every fused way, on two streams, whether that is faster here or not."""
    set_precision(precision, deterministic=False)
    overrides = (f"auxiliary={aux}", f"precision={precision}")
    (plain, replay), (fused, other) = make(name, "cuda", *overrides), make(name, "cuda", *overrides)
    clock = itertools.cycle((1.0, 2.0))  # of the fused way, then of torch's
    assert fused.fuse(lambda work: next(clock)) == []
    update, reason = capture_faster(fused, other, precision, lambda work: next(clock))
    assert reason == ""
    expected, actual = updated(plain, replay, count=1), updated(fused, other, count=1, update=update)
    assert_metrics_near(actual[0], expected[0], 1e-3 if precision == "fp32" else 0.05)
    moments = [
        torch.cat([entry["exp_avg"].flatten().double() for optimizer in agent.optimizers.values()
                   for entry in adam_state(optimizer).values()])
        for agent in (plain, fused)
    ]  # fmt: skip
    assert torch.cosine_similarity(*moments, dim=0) > (0.9999 if precision == "fp32" else 0.95)


@pytest.mark.gpu
@pytest.mark.parametrize("name", RECIPES)
def test_a_recorded_update_goes_on_from_any_state(name):
    """As a resumed run does: recorded on an empty replay, then the state of another run is loaded."""
    set_precision("fp32", deterministic=True)
    agent, replay = make(name, "cuda")
    resumed, other = make(name, "cuda", "seed=2", steps=0)
    update, update_resumed = capture_updates(agent, replay), capture_updates(resumed, other)
    updated(agent, replay, update=update)
    other.load_rows(0, {key: rows.cpu() for key, rows in replay.rows(0, 60).items()})
    other.load_state(replay.state())
    resumed.load_state(agent.state())
    actual, _, weights = updated(resumed, other, update=update_resumed)
    expected, _, other_weights = updated(agent, replay, update=update)
    assert_metrics_near(actual, expected, tolerance=1e-4)
    assert_tensors_near(weights, other_weights, tolerance=1e-4, floor=0.1)


@pytest.mark.gpu
@pytest.mark.parametrize("name, settings", [
    ("atari", "ladder=annealing agent.n_step_initial=4 agent.anneal_updates=9 resets.every=31 loop.learning_starts=30"),
    ("dmcontrol", "ladder=resets resets.every=32"),
])  # fmt: skip
def test_a_recorded_update_reads_what_a_reset_writes(name, settings):
    set_precision("fp32", deterministic=True)
    (agent, replay), (recorded, other) = (make(name, "cuda", *settings.split()) for _ in range(2))
    update = capture_updates(recorded, other)
    for _ in range(2):  # before the reset, and after it
        expected, _, weights = updated(agent, replay)
        actual, _, other_weights = updated(recorded, other, update=update)
        assert_metrics_near(actual, expected, tolerance=1e-4)
        assert_tensors_near(other_weights, weights, tolerance=1e-4, floor=0.1)
        assert agent.end_of_updates(64) == recorded.end_of_updates(64) == {"reset": 2}


@pytest.mark.gpu
@pytest.mark.parametrize("name", RECIPES)
def test_a_recorded_update_without_data_is_refused(name):
    agent, replay = make(name, "cuda", steps=0)
    update = capture_updates(agent, replay)
    with pytest.raises(RuntimeError, match="no (window|transition)"):
        update(replay, 60, "update")


@pytest.mark.gpu
@pytest.mark.parametrize("name", RECIPES)
def test_memory_does_not_grow(name):
    agent, replay = make(name, "cuda")
    update = capture_updates(agent, replay)
    means, allocated = MetricMeans(), []
    for step in range(220):
        means.add(update(replay, 60 + step, "update"))
        if step % 20 == 19:
            means.read()
            allocated.append(torch.cuda.memory_allocated())
    assert allocated[1:] == allocated[:1] * 10


# Whole runs, each in a process of its own: cuBLAS asks once how it is to compute


TASKS = {"atari": "game=pong", "dmcontrol": "task=cartpole_swingup"}


def train(folder, name, *overrides, device="cuda"):
    script = [sys.executable, f"scripts/train_{name}.py", TASKS[name]]
    settings = ["preset=tiny", f"device={device}", "deterministic=true", "video=false", f"run_dir={folder}", *overrides]
    result = subprocess.run([*script, *settings], cwd=ROOT, capture_output=True, text=True, timeout=HANG, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def digests(folder):
    return [part[:2] for part in inspect(folder)]


RUNS = ["atari", pytest.param("dmcontrol", marks=pytest.mark.gl)]


@pytest.fixture(scope="module")
def run_on_gpu(tmp_path_factory):
    """Folder of a finished run of a suite; each is made once."""
    folders = {}

    def folder_of(name) -> Path:
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp("runs") / name
            assert "updates as CUDA graphs" in train(folders[name], name)
        return folders[name]

    return folder_of


@pytest.mark.gpu
@pytest.mark.parametrize("name", RUNS)
def test_two_deterministic_runs_are_equal(name, run_on_gpu, tmp_path):
    train(tmp_path / "run", name)
    assert digests(tmp_path / "run") == digests(run_on_gpu(name))


@pytest.mark.gpu
@pytest.mark.parametrize("name", RUNS)
def test_a_recorded_run_resumes_as_if_nothing_had_happened(name, run_on_gpu, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run_on_gpu(name), copy)
    shutil.rmtree(max(copy.glob("checkpoints/0*")))
    rows = (copy / "evaluations.csv").read_text().splitlines(keepends=True)
    (copy / "evaluations.csv").write_text("".join(rows[:-1]))
    assert "resumed at agent step" in train(copy, name)
    assert digests(copy) == digests(run_on_gpu(name))


@pytest.mark.gpu
def test_the_order_of_the_loop_changes_nothing(run_on_gpu, tmp_path):
    train(tmp_path / "run", "atari", "loop.order=released")
    assert digests(tmp_path / "run")[:-1] == digests(run_on_gpu("atari"))[:-1]  # the last names the configuration


@pytest.mark.gpu
@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_is_not_recorded(name, tmp_path):
    assert "run eagerly" in train(tmp_path / "run", name, "capture=off", "precision=bf16", "deterministic=false")
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())
