from types import SimpleNamespace

import numpy as np
import pytest

from dmcontrol.environment import task_seed
from harness.checkpoint import Checkpoints
from harness.config import EnvironmentFacts
from harness.own_environment import SEEDS
from harness.seeding import derive_seed
from mwm.environments import CAMERA, MetaworldTask, make_environment

pytestmark = pytest.mark.gl
SIZE = 64


def configuration(task, env_steps=500, shadows=False):
    settings = SimpleNamespace(image_size=SIZE, action_repeat=2, episode_env_steps=env_steps, shadows=shadows)
    facts = EnvironmentFacts(
        image_size=SIZE,
        channels=3,
        frame_stack=1,
        padding="repeat",
        action_repeat=2,
        time_limit=env_steps,
        discrete=False,
        elsewhere="",
    )
    return SimpleNamespace(task=task, environment=settings, environment_facts=lambda training: facts)


@pytest.fixture
def make():
    """Makes environments that are closed after the test."""
    made = []

    def make(task, seed=1, episode=0, training=True, **settings):
        made.append(make_environment(configuration(task, **settings), seed, episode, training))
        return made[-1]

    yield make
    for environment in made:
        environment.close()


@pytest.fixture
def blind(monkeypatch):
    """Meta-world without pictures, which cost most."""
    monkeypatch.setattr(MetaworldTask, "render", lambda self: np.zeros((SIZE, SIZE, 3), np.uint8))


def random_actions(count, size=4, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, size)).astype(np.float32)


def play(environment, actions):
    """All that an agent and an evaluation see, and the simulator's own vector; resets at ends."""
    seen = []
    for action in actions:
        observation, reward, terminated, truncated, info = environment.step(action)
        seen.append((observation, reward, terminated, truncated, info["columns"]["success"], vector(environment)))
        if terminated or truncated:
            seen.append(environment.reset()[0])
    return seen


def vector(environment):
    return environment.inner._task._last_stable_obs.copy()


def assert_equal(left, right):
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        np.testing.assert_equal(one, other)


def by_hand(name, seed):
    """A Meta-world task as its package makes it, which renders with Gymnasium's renderer."""
    from metaworld.env_dict import ENV_CLS_MAP

    task = ENV_CLS_MAP[name](render_mode="rgb_array", camera_name="corner2", width=SIZE, height=SIZE)
    task._partially_observable, task._freeze_rand_vec = False, False
    task._set_task_called, task.seeded_rand_vec = True, True
    task.seed(derive_seed(derive_seed(seed, "environment", 0), 0) % SEEDS)
    task.model.cam_pos[2] = [0.75, 0.075, 0.7]
    return task


def test_steps_and_pictures_are_those_of_metaworld_by_hand(make):
    environment, task = make("drawer_open", shadows=True), by_hand("drawer-open-v3", seed=1)
    observation, _ = environment.reset()
    task.reset()
    assert observation.dtype == np.uint8 and observation.shape == (3, SIZE, SIZE)
    assert np.array_equal(observation.transpose(1, 2, 0), task.render()[::-1])
    for action in random_actions(1):
        rewards = [task.step(action)[1] for _ in range(2)]
        observation, reward, terminated, truncated, info = environment.step(action)
        assert reward == info["raw_reward"] == sum(rewards)
        assert not terminated and not truncated
        assert np.array_equal(observation.transpose(1, 2, 0), task.render()[::-1])
    assert np.array_equal(environment.render(), observation.transpose(1, 2, 0))
    task.close()


def test_the_picture_stands_upright(make):
    """A camera's matrix tells where a point of the world lies in the picture."""
    environment = make("window_close")
    environment.reset()
    observation, *_ = environment.step(np.zeros(4, np.float32))
    task = environment.inner._task
    camera = task.data.camera(CAMERA)
    focal = SIZE / 2 / np.tan(np.radians(task.model.camera(CAMERA).fovy[0]) / 2)

    def pixel(point):
        """Row from the top and column of a point, in the picture as an agent sees it."""
        right, up, back = camera.xmat.reshape(3, 3).T @ (point - camera.xpos)
        rendered_row, column = SIZE / 2 + focal * up / back, SIZE / 2 - focal * right / back
        return SIZE - rendered_row, column

    hand = task.data.body("hand").xpos
    (above, _), (below, _) = pixel(hand + [0, 0, 0.2]), pixel(hand)
    assert 0 < above < below < SIZE
    row, column = (int(value) for value in pixel(task.data.site("handleCloseStart").xpos))  # a green ball
    red, green, blue = observation[:, row - 1 : row + 2, column - 1 : column + 2].reshape(3, -1).astype(int)
    assert np.any((green > red + 60) & (green > blue + 60))


def test_pictures_without_shadows_are_others(make):
    pictures = [make("window_close", shadows=shadows).reset()[0].astype(int) for shadows in (False, True)]
    assert 2 < np.abs(pictures[0] - pictures[1]).mean() < 20


@pytest.mark.parametrize("task", ["window_close", "drawer_open", "reach"])
def test_a_scripted_policy_succeeds(make, blind, task):
    from metaworld import policies

    name = "".join(word.capitalize() for word in task.split("_"))
    policy = getattr(policies, f"Sawyer{name}V3Policy")()
    environment = make(task)
    environment.reset()
    seen = environment.inner._task._get_obs()
    success = []
    for _ in range(250):
        action = np.clip(policy.get_action(seen), -1, 1).astype(np.float32)
        *_, info = environment.step(action)
        seen = vector(environment)
        success.append(info["columns"]["success"])
    assert success == sorted(success) and success[0] == 0 and success[-1] == 1
    environment.reset()
    *_, info = environment.step(action)
    assert info["columns"] == {"success": 0.0}


def test_an_episode_has_250_agent_steps_and_its_own_goal(make, blind):
    environment = make("reach")
    goals = []
    for _ in range(2):
        environment.reset()
        goals.append(environment.inner._task._target_pos.copy())
        ends = [environment.step(action)[2:4] for action in random_actions(250)]
        assert ends == [(False, False)] * 249 + [(False, True)]
    assert not np.array_equal(*goals)


def test_seeds_reproduce_and_differ(make, blind):
    def seen(**which):
        environment = make("push", **which)
        environment.reset()
        return play(environment, random_actions(20))

    first = seen()
    assert_equal(first, seen())
    for other in ({"seed": 2}, {"episode": 1}, {"training": False}):
        assert not np.array_equal(first[0][-1], seen(**other)[0][-1])


@pytest.mark.parametrize("task", ["window_close", "door_lock", "basketball"])  # the last two keep views of the physics
def test_a_run_resumes_exactly_in_the_middle_of_an_episode(make, blind, tmp_path, task):
    actions = random_actions(320)
    environment = make(task)
    environment.reset()
    play(environment, actions[:270])
    with Checkpoints(tmp_path, 0, "") as checkpoints:
        checkpoints.save(0, environment.state(), None)
    _, state = Checkpoints(tmp_path, 0, "").load(None, print)
    expected = play(environment, actions[270:])
    other = make(task)
    other.load_state(state)
    assert_equal(expected, play(other, actions[270:]))


def test_a_task_of_the_suite_is_rendered_as_by_the_suite(make):
    from dm_control import suite

    environment = make("dmc_cartpole_balance", env_steps=1000, shadows=True)
    seed = task_seed(derive_seed(1, "environment", 0))
    task = suite.load("cartpole", "balance", task_kwargs={"random": seed})
    task.reset()
    observation, _ = environment.reset()
    for action in random_actions(2, size=1):
        assert np.array_equal(observation.transpose(1, 2, 0), task.physics.render(SIZE, SIZE, camera_id=0))
        rewards = [task.step(action).reward for _ in range(2)]
        observation, reward, *_ = environment.step(action)
        assert reward == sum(rewards)
    plain = make("dmc_cartpole_balance", env_steps=1000)
    assert plain.reset()[0].shape == observation.shape and not plain.model.light_castshadow.any()


def test_a_manipulation_task_is_rendered_as_by_its_package_and_resumes(make):
    from dm_control import manipulation

    environment = make("manip_reach_duplo", env_steps=250, shadows=True)
    task = manipulation.load("reach_duplo_features", seed=derive_seed(derive_seed(1, "environment", 0), 0) % SEEDS)
    task.reset()
    observation, _ = environment.reset()
    bounds = task.action_spec()
    actions = random_actions(2, size=9)
    for action in actions[:1]:
        control = (bounds.minimum + (action.astype(float) + 1) / 2 * (bounds.maximum - bounds.minimum)).astype("f4")
        rewards = [task.step(control).reward for _ in range(2)]
        observation, reward, *_ = environment.step(action)
        assert reward == pytest.approx(sum(rewards), abs=1e-6)
        assert np.array_equal(observation.transpose(1, 2, 0), task.physics.render(SIZE, SIZE, camera_id=0))
    other = make("manip_reach_duplo", env_steps=250, shadows=True)
    other.load_state(environment.state())
    np.testing.assert_equal(other.step(actions[1])[:2], environment.step(actions[1])[:2])
