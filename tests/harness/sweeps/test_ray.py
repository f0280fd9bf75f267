"""Runs that are small scripts on a Ray of this machine, where it is installed."""

import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.config import ConfigError
from harness.sweeps.attempt import Outcome
from harness.sweeps.config import read_sweep_config
from harness.sweeps.ray import connect, run_on_ray
from harness.sweeps.record import read_events
from tests.harness.sweeps.test_attempt import FINISH, STEP, make_run

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'ray>=2.40,<3'")


def test_a_run_that_ends_while_the_sweep_stops_is_told(tmp_path, monkeypatch):
    """On a stand-in for Ray, where the order is known."""

    class Cancelled(Exception): ...

    def get(name):
        if name == "cancelled":
            raise Cancelled
        return Outcome("done")

    stand_in = SimpleNamespace(
        remote=lambda **_: lambda work: SimpleNamespace(remote=lambda run, *_: run.name),
        wait=lambda names, **_: (names, []),
        cancel=lambda name: None,
        get=get,
        shutdown=lambda: None,
        exceptions=SimpleNamespace(RayError=Cancelled),
    )
    monkeypatch.setitem(sys.modules, "ray", stand_in)
    told, runs = [], [make_run(tmp_path, "", name) for name in ("ended", "cancelled")]
    outcomes = run_on_ray(
        runs, read_sweep_config([]), lambda: True, lambda run, _: told.append(run.name), watch=lambda: None
    )
    assert outcomes == [Outcome("done"), Outcome("stopped")] and told == ["ended"]


@needs_ray
def test_what_ray_can_never_place_is_refused():
    import ray

    with pytest.raises(ConfigError, match=r"ray\.gpus=1000 is more than Ray has"):
        connect(read_sweep_config(["launcher=ray", "ray.cpus=0.5", "ray.gpus=1000"]))
    assert not ray.is_initialized()


@needs_ray
def test_an_error_within_ray_is_that_runs_failure(tmp_path):
    config = read_sweep_config(["launcher=ray", "ray.cpus=0.5", "ray.gpus=0"])
    fine = make_run(tmp_path, FINISH, "fine")
    odd = make_run(tmp_path, FINISH, "odd\0")  # no folder can have the name
    connect(config)
    outcomes = run_on_ray([odd, fine], config, lambda: False, lambda run, outcome: None, lambda: None)
    assert outcomes == [Outcome("failed", "Ray: embedded null byte"), Outcome("done")]


@needs_ray
def test_ray_runs_all_names_failures_and_stops(tmp_path):
    config = read_sweep_config(["launcher=ray", "ray.cpus=0.5", "ray.gpus=0"])
    killed = make_run(tmp_path, f"{STEP}\nif n < 3: os.kill(os.getpid(), 9)\n{FINISH}", "killed")
    failing = make_run(tmp_path, "print('error: too hot', file=sys.stderr); sys.exit(2)", "failing")
    handler = "signal.signal(15, lambda *_: (open('told', 'w'), sys.exit(75)))"
    endless = make_run(tmp_path, f"{handler}; open('ready', 'w'); time.sleep(300)", "endless")
    told = []
    connect(config)
    outcomes = run_on_ray(
        [killed, failing, endless],
        config,
        stop=lambda: len(told) == 2 and (Path(endless.run_dir) / "ready").exists(),
        ended=lambda run, outcome: told.append(run.name),
        watch=lambda: None,
    )
    assert outcomes == [Outcome("done"), Outcome("failed", "exit code 2: error: too hot"), Outcome("stopped")]
    assert [event["code"] for event in read_events(killed) if event["event"] == "ended"] == [-9, -9, 0]
    assert (Path(endless.run_dir) / "told").exists()
