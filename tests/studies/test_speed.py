"""The speed study on tiny updates: that its numbers belong together, not how large they are."""

import json
import subprocess
import sys

import pytest
import torch

from harness.spans import span
from studies.speed import __main__ as command
from studies.speed import updates
from studies.speed.table import show
from tests.conftest import ROOT

QUICK = ["--size", "tiny", "--repeats", "1", "--seconds", "0.05", "threads=1"]
RL_PARTS = {"sample", "augment", "rl", "backward", "optimizer", "rest"}
MLR_PARTS = RL_PARTS | {"targets", "masked_encode", "decode"}
MWM_PARTS = {"sample", "autoencoder", "dynamics", "behaviour", "rest"}
KEYS = {
    "update_seconds", "update_cpu_seconds", "parts", "agent_steps_per_second", "environment_frames_per_second",
    "evaluation_frames_per_second", "flops", "flops_per_second", "matrix_flops_per_second", "bandwidth",
    "peak_memory_bytes", "machine", "command",
}  # fmt: skip
ENVIRONMENT_PARTS = {"atari": {"resize", "rest"}, "dmcontrol": {"render", "rest"}, "mwm": {"render", "resize", "rest"}}


@pytest.mark.parametrize(
    "name, auxiliary",
    [
        ("atari", "mlr"),
        ("atari", "none"),
        pytest.param("dmcontrol", "mlr", marks=pytest.mark.gl),
        pytest.param("dmcontrol", "none", marks=pytest.mark.gl),
        pytest.param("mwm", "none", marks=pytest.mark.gl),
    ],
)
def test_table_and_file_have_every_number(name, auxiliary, tmp_path, capsys):
    file = tmp_path / "numbers.json"
    assert command.main([name, *QUICK, "device=cpu", "--auxiliary", auxiliary, "--json", str(file)]) == 0
    result, printed = json.loads(file.read_text()), capsys.readouterr().out
    assert KEYS <= result.keys()
    assert result["auxiliary"] == auxiliary
    updates = MLR_PARTS if auxiliary == "mlr" else MWM_PARTS if name == "mwm" else RL_PARTS
    assert result["parts"].keys() == updates
    for parts, whole in (("parts", "update_seconds"), ("parts_cpu", "update_cpu_seconds")):
        assert sum(result[parts].values()) == pytest.approx(result[whole], rel=1e-9)
        assert min(result[parts].values()) >= 0
    assert result["environment_step_seconds"].keys() == ENVIRONMENT_PARTS[name]
    assert result["agent_step_seconds"].keys() == {"act", "update", "environment", "store"}
    rates = [key for key in KEYS if key.endswith("_per_second")]
    assert all(result[key] > 0 for key in [*rates, "flops", "bandwidth", "peak_memory_bytes"])
    counted = {part for part, flops in result["parts_flops"].items() if flops}
    assert counted == updates - {"sample", "augment", "optimizer", "rest"}
    assert result["flops_per_second"] == pytest.approx(result["flops"] / result["update_seconds"])
    assert result["share_of_matrix_rate"] == pytest.approx(
        result["flops_per_second"] / result["matrix_flops_per_second"]
    )
    assert result["machine"]["torch"] == torch.__version__
    for word in (*result["parts"], "agent step: act", "GFLOP/s", "frames/s", "copies", "commit"):
        assert word in printed
    assert ("drawn by" in printed) == (name != "atari")


def test_a_profile_names_the_parts(tmp_path, capsys):
    trace = tmp_path / "trace.json"
    assert command.main(["atari", *QUICK, "device=cpu", "--profile", str(trace), "--deterministic"]) == 0
    ranges = {event["name"] for event in json.loads(trace.read_text())["traceEvents"] if event.get("ph") == "X"}
    assert MLR_PARTS - {"rest"} | {"eager"} <= ranges
    assert capsys.readouterr().out.startswith("deterministic=true changes nothing on a CPU")


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["atari", "--size", "huge"], ["huge", "tiny"]),
        (["pong"], ["pong", "atari"]),
        ([], ["suite"]),
        (["atari", "--repeats", "0"], ["--repeats: 0 must be at least 1"]),
        (["atari", "--seconds", "nan"], ["--seconds=nan"]),
        (["atari", "preset=quick"], ["--size"]),
        (["atari", "precision=fp8"], ["fp8", "bf16"]),
        (["dmcontrol", "task=pong"], ["task", "pong"]),
        (["atari", "--against", "replay.window=7"], ["mlr.seq_len=7"]),
        (["atari", "--json", "/nowhere/numbers.json"], ["/nowhere/numbers.json", "folder"]),
        (["atari", "--profile", "."], ["is a folder"]),
    ],
)
def test_wrong_input_is_refused_in_one_line(arguments, words, capsys):
    assert command.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and len(printed.err.splitlines()) == 1
    assert all(word in printed.err for word in words), printed.err


def test_wrong_input_is_refused_before_torch_is_imported():
    code = "import sys; from studies.speed.__main__ import main; print(main(sys.argv[1:]), 'torch' in sys.modules)"
    command = [sys.executable, "-c", code, "atari", "replay.window=7"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "2 False\n" and "mlr.seq_len=7" in done.stderr


def test_time_goes_to_the_innermost_part(monkeypatch):
    """With a clock that ticks once each time it is read."""
    ticks = iter(range(1000))
    monkeypatch.setattr(updates.time, "perf_counter", lambda: next(ticks))

    def update():
        with span("outer"), span("inner"):
            pass

    ((parts, _),) = updates.time_on_cpu(update, cycle=2, repeats=1)
    assert parts == {"rest": 1.0, "outer": 1.0, "inner": 0.5}


def test_goals_are_of_one_gpu_and_one_size():
    result = {"device": "cuda", "size": "full", "auxiliary": "mlr", "suite": "atari", "machine": {"gpu": "NVIDIA H200"}}
    assert command.goals(result) == {"floor, arithmetic": 0.88, "floor, bytes": 1.54, "goal": 3.5}
    others = ({"size": "quick"}, {"auxiliary": "none"}, {"device": "cpu"}, {"machine": {"gpu": "NVIDIA A100"}})
    assert not any(command.goals(result | other) for other in others)


class FakeEvent:
    """Event of a GPU whose clock ticks once for each event."""

    clock = iter(range(1000))

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.at = next(self.clock)

    def elapsed_time(self, later):
        return 1000 * (later.at - self.at)


def test_events_of_a_gpu_become_seconds(monkeypatch):
    for name in ("synchronize", "reset_peak_memory_stats", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda *arguments: 7)
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    rand, made = torch.rand, []
    monkeypatch.setattr(updates.torch, "rand", lambda *shape, device: made.append(device) or rand(4, 4))

    def update():
        with span("rl"):
            pass

    timed = updates.time_on_gpu(update, 2, 3, torch.device("cuda"))
    assert timed["update_seconds"] == 0.5 and timed["update_seconds_all"] == [0.5] * 3
    assert timed["peak_memory_bytes"] == 7 and timed["update_cpu_seconds"] >= 0
    assert updates.time_parts_on_gpu(update, 2, 3, 0.5) == {"rest": 1.0, "rl": 0.5} and made == ["cuda"]


def test_the_table_shows_other_settings_and_every_kind_of_update(tmp_path, capsys):
    file, larger = tmp_path / "numbers.json", "agent.batch_size=64"
    options = ["--auxiliary", "none", "--against", larger, "--repeats", "3", "--json", str(file)]
    assert command.main(["atari", *QUICK, "device=cpu", *options]) == 0
    result = json.loads(file.read_text())
    other = result["compared"][larger]
    assert other["update_cpu_seconds_ratio"] == other["update_cpu_seconds"] / result["update_cpu_seconds"] > 1
    assert f"update, {larger}" in capsys.readouterr().out
    on_gpu = {"device": "cuda", "captured": True, "parts_cpu": {}}
    show(result | on_gpu | {"eager_update_seconds": 1.0, "eager_update_cpu_seconds": 2.0}, {"goal": 3.5})
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("update, eager", "update, captured", "1,000", "2,000", "goal", "3.50"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")
def test_a_gpu_shows_captured_eager_and_deterministic_updates(tmp_path):
    file, trace = tmp_path / "numbers.json", tmp_path / "trace.json"
    options = ["device=cuda", "--deterministic", "--json", str(file), "--profile", str(trace)]
    assert command.main(["atari", *QUICK, *options]) == 0
    result = json.loads(file.read_text())
    assert result["captured"] and result["replay_steps"] > 60
    assert result["compared"]["deterministic=true"]["update_seconds"] > 0 and result["eager_update_seconds"] > 0
    assert result["parts"].keys() == MLR_PARTS
    assert {"eager", "captured"} <= {event["name"] for event in json.loads(trace.read_text())["traceEvents"]}
