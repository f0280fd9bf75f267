import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from dmcontrol.rendering import choose_backend
from harness.config import ConfigError
from mwm import tasks
from mwm.tasks import MANIPULATION_TASKS, METAWORLD_TASKS, require_task


@pytest.mark.gl
def test_the_names_are_those_of_the_simulators():
    choose_backend()  # before the first import decides it
    from dm_control import manipulation
    from metaworld.env_dict import ENV_CLS_MAP

    assert {f"{name.replace('_', '-')}-v3" for name in METAWORLD_TASKS} == set(ENV_CLS_MAP)
    features = {name.removesuffix("_features") for name in manipulation.ALL if name.endswith("_features")}
    assert set(MANIPULATION_TASKS) == features
    for name in ("window_close", "dmc_cartpole_balance", "dmc_ball_in_cup_catch", "manip_reach_duplo"):
        require_task(name)


@pytest.mark.parametrize(
    ("task", "advice"),
    [
        ("windowclose", "no task named 'windowclose'; did you mean window_close?"),
        ("window-close-v3", "did you mean window_close?"),
        ("cartpole_balance", "did you mean dmc_cartpole_balance?"),
        ("manip_reach_duplo_features", "did you mean manip_reach_duplo?"),
        ("xyz", "choose one of Meta-world, such as window_close, or of DMControl, such as dmc_cartpole_balance"),
        ("rlbench_reach_target", "RLBench needs CoppeliaSim, which no package index has"),
    ],
)
def test_an_unknown_task_is_refused_in_one_line(task, advice):
    with pytest.raises(ConfigError) as caught:
        require_task(task)
    assert advice in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_metaworld_is_refused_with_what_to_install(monkeypatch):
    def find(name):
        return None if name == "metaworld" else importlib.util.find_spec(name)

    monkeypatch.setattr(tasks, "find_spec", find)
    require_task("dmc_cartpole_balance")
    with pytest.raises(ConfigError, match=r"task=window_close needs the package metaworld: pip install 'metaworld>="):
        require_task("window_close")


def test_names_and_environments_are_imported_without_simulators_and_torch():
    code = "import sys, mwm.environments\nprint(*{name.split('.')[0] for name in sys.modules})"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert "mwm" in done.stdout.split()
    assert not {"torch", "mujoco", "metaworld", "dm_control"} & set(done.stdout.split())
