from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from harness.episodes import pack
from harness.verification import play_again
from mwm import suite
from mwm.environments import MetaworldTask, make_suite_task
from mwm.suite import DMCONTROL_PIXELS, METAWORLD
from recipes import COMMANDS

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


def test_an_episode_of_meta_world_is_played_again_to_the_last_digit():
    config = COMMANDS["mwm"].resolve(["task=reach", "preset=tiny"])
    generator, rewards, actions, over = np.random.default_rng(0), [], [], False
    environment = METAWORLD.make_environment(config, 5, 1, False)
    environment.reset()
    while not over:
        actions.append(generator.uniform(-1, 1, environment.action_space.shape).astype(np.float32))
        _, reward, terminated, truncated, info = environment.step(actions[-1])
        rewards.append(reward)
        over = terminated or truncated
    environment.close()
    make = partial(METAWORLD.make_environment, config, training=False)
    outcome = play_again(make, "5", 1, pack([action.tolist() for action in actions]))
    assert outcome == {"score": sum(rewards), "episode_agent_steps": len(actions), **info["columns"]}
    assert "success" in outcome and sum(rewards) > 0
    assert set(METAWORLD.simulator(config)) == {"mujoco", "metaworld"}
    assert play_again(make, "6", 1, pack([action.tolist() for action in actions])) != outcome


@pytest.mark.parametrize("task", ["dmc_pendulum_swingup", "manip_reach_duplo"])
def test_scores_of_dmcontrol_need_no_pictures(task):
    config, rewards = COMMANDS["mwm"].resolve([f"task={task}", "preset=tiny"]), []
    for make in (partial(DMCONTROL_PIXELS.make_environment, training=False), DMCONTROL_PIXELS.make_scorer):
        environment, generator = make(config, 5, 1), np.random.default_rng(0)
        first, _ = environment.reset()
        actions = generator.uniform(-1, 1, (3, *environment.action_space.shape)).astype(np.float32)
        rewards.append(([environment.step(action)[1] for action in actions], first.any()))
        environment.close()
    assert rewards[0] == (rewards[1][0], True) and not rewards[1][1]
