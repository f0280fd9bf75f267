from types import SimpleNamespace

import pytest

from mwm import suite
from mwm.environments import MetaworldTask, make_suite_task
from mwm.suite import DMCONTROL_PIXELS, METAWORLD

pytestmark = pytest.mark.gl
SETTINGS = SimpleNamespace(image_size=16, action_repeat=2, episode_env_steps=500, shadows=False)
CONFIG = SimpleNamespace(task="reach", environment=SETTINGS)


@pytest.fixture(params=["metaworld", "dmcontrol"])
def made(request):
    """A suite and an environment of it."""
    if request.param == "metaworld":
        inner = MetaworldTask("reach", 16, shadows=False)
        made = METAWORLD, SimpleNamespace(inner=inner), inner
    else:
        environment = make_suite_task("pendulum_swingup", SETTINGS, 1)
        made = DMCONTROL_PIXELS, environment, environment
    yield made[:2]
    made[2].close()


def test_a_run_names_its_renderer_and_says_that_shadows_are_off(made):
    suite, environment = made
    renderer = suite.manifest(CONFIG, environment)["renderer"]
    assert renderer
    first, second = suite.describe(CONFIG, environment, "cpu")
    assert first == f"renderer     {renderer}" and "without shadows" in second
    shadows = SimpleNamespace(task="reach", environment=SimpleNamespace(shadows=True))
    assert len(suite.describe(shadows, environment, "cpu")) == 1


def test_an_agent_step_is_two_environment_steps():
    for each in (METAWORLD, DMCONTROL_PIXELS):
        assert each.units(CONFIG, 5000) == {"agent_steps": 5000, "env_steps": 10000, "frames": 5000}
    assert suite.metaworld_manifest(CONFIG, SimpleNamespace(inner=SimpleNamespace(renderer="x")))["metaworld"] >= "3.1"
