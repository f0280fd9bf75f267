import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import dm_env
import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from dmcontrol.config import EnvironmentConfig
from dmcontrol.environment import DMControlEnv
from harness.checkpoint import Checkpoints
from harness.config import ConfigError

pytestmark = pytest.mark.gl
ROOT = Path(__file__).parents[2]
CONFIG = EnvironmentConfig(
    image_size=16, frame_stack=3, action_repeat=4, camera=0, episode_env_steps=1000, shadow_size=0
)
COARSE = {"shadowsize": 256, "offsamples": 0, "numslices": 4, "numstacks": 4, "numquads": 1}
BENCHMARK = ("finger spin", "cartpole swingup", "reacher easy", "cheetah run", "walker walk", "ball_in_cup catch")
SPLIT, LAST = 5, 30  # agent steps before the state is taken, and in all
RESET = 18  # agent steps before the second episode


def make(task, config=CONFIG, seed=1):
    """An environment whose pictures are coarse, which in software takes a tenth of the time."""
    env = DMControlEnv(*task.split(), config, seed)
    for name, value in COARSE.items():
        setattr(env._physics.model.vis.quality, name, value)
    return env


def random_actions(env, count, seed=0):
    return np.random.RandomState(seed).uniform(-1, 1, (count, *env.action_space.shape)).astype(np.float32)


def digest(*arrays):
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()


def play(env, start, stop):
    """Digests of all that can be seen of the steps `start` to `stop` of a fixed sequence, a reset among them."""
    seen = []
    for i, action in enumerate(random_actions(env, stop)[start:], start):
        if i == RESET:
            obs, info = env.reset()
            seen.append(digest(obs, info["physics_state"]))
        obs, reward, terminated, truncated, info = env.step(action)
        seen.append(digest(obs, reward, terminated, truncated, info["physics_state"], info["discount"]))
    return [*seen, digest(env.render(), env.action_space.sample())]


def by_hand(task, seed):
    from dm_control import suite

    return suite.load(*task.split(), task_kwargs={"random": seed})


@pytest.mark.parametrize(("task", "camera"), [("cheetah run", 0), ("quadruped walk", 2)])
def test_steps_are_those_of_the_suite_by_hand(task, camera):
    config = replace(CONFIG, image_size=100, action_repeat=3, camera=camera)
    env = DMControlEnv(*task.split(), config, seed=5)
    suite = by_hand(task, seed=5)
    suite.reset()
    frames = [suite.physics.render(100, 100, camera_id=camera).transpose(2, 0, 1)] * 3
    obs, info = env.reset()
    assert obs.dtype == np.uint8 and np.array_equal(obs, np.concatenate(frames))
    assert np.array_equal(info["physics_state"], suite.physics.get_state())
    bounds = suite.action_spec()
    low, high = bounds.minimum, bounds.maximum
    for action in [*random_actions(env, 2), env.action_space.low, env.action_space.high]:
        before = suite.physics.get_state()
        control = (low + (action.astype(np.float64) + 1) / 2 * (high - low)).astype(np.float32)
        rewards = [suite.step(control).reward for _ in range(3)]
        frames = [*frames[1:], suite.physics.render(100, 100, camera_id=camera).transpose(2, 0, 1)]
        obs, reward, terminated, truncated, info = env.step(action)
        assert reward == info["raw_reward"] == sum(rewards)
        assert (terminated, truncated, info["discount"]) == (False, False, 1.0)
        assert np.array_equal(info["physics_state"], before)
        assert np.array_equal(env._physics.data.ctrl, control)
        assert np.array_equal(obs, np.concatenate(frames))
    assert np.array_equal(env.render(), suite.physics.render(300, 300, camera_id=camera))
    suite.physics.free()
    env.close()


def test_an_episode_has_1000_environment_steps():
    env = make("pendulum swingup", replace(CONFIG, action_repeat=300))
    for _ in range(2):
        env.reset()
        flags = [env.step(env.action_space.high)[2:4] for _ in range(4)]
        assert flags == [(False, False)] * 3 + [(False, True)]
        assert env._physics.time() == pytest.approx(1000 * 0.02)
        with pytest.raises(gymnasium.error.ResetNeeded):
            env.step(env.action_space.high)
    env.close()


@pytest.mark.parametrize(
    ("discount", "flags"), [(0.0, (True, False)), (1.0, (False, True)), (0.5, (False, True)), (None, (False, False))]
)
def test_only_an_end_with_discount_0_terminates(monkeypatch, discount, flags):
    env = make("pendulum swingup")
    env.reset()
    steps = [dm_env.transition(None, None), dm_env.transition(0.25, None), dm_env.transition(0.5, None)]
    if discount is None:
        steps.append(dm_env.transition(2.0, None))
    else:
        steps = [*steps[:2], dm_env.termination(2.0, None)._replace(discount=discount), steps[2]]
    given = iter(steps)
    monkeypatch.setattr(env._suite, "step", lambda control: next(given))
    _, reward, terminated, truncated, info = env.step(env.action_space.sample())
    assert (terminated, truncated) == flags
    assert reward == (2.75 if discount is None else 2.25)
    assert len(list(given)) == (0 if discount is None else 1)
    assert info["discount"] == (1.0 if discount is None else discount)
    env.close()


@pytest.mark.parametrize(
    "action", [np.float32([1.001, 0]), np.float32([np.nan, 0]), np.float32([0]), np.float64([0.5, 0.5])]
)
def test_an_action_outside_its_box_is_refused(action):
    env = make("reacher easy")
    with pytest.raises(ValueError, match="is not in Box"):
        env.step(action)
    env.close()


def test_spaces_rate_and_own_copies():
    env = make("cheetah run", replace(CONFIG, frame_stack=2))
    obs, _ = env.reset()
    before = obs.copy()
    for _ in range(3):
        env.step(env.action_space.sample())
    assert obs.shape == env.observation_space.shape == (6, 16, 16) and np.array_equal(obs, before)
    assert env.action_space == gymnasium.spaces.Box(-1, 1, (6,), np.float32)
    assert env.fps == pytest.approx(25)  # 100 environment steps per second
    assert env.render().shape == (48, 48, 3) and env.renderer
    env.close()
    env.close()


@pytest.mark.filterwarnings("ignore:.*alternative render modes")
def test_gymnasium_accepts_it():
    env = make("reacher easy", replace(CONFIG, action_repeat=100))
    check_env(env)
    env.close()


def test_unknown_tasks_and_cameras_are_refused():
    with pytest.raises(ConfigError, match="reacher has no task named 'eazy'; did you mean easy"):
        make("reacher eazy")
    with pytest.raises(ConfigError, match="^environment.camera=2: reacher has the cameras 0 to 1$"):
        make("reacher easy", replace(CONFIG, camera=2))


def test_seeds_alone_drive_the_physics():
    one, same, other = make("reacher easy", seed=4), make("reacher easy", seed=2**32 + 4), make("reacher easy", seed=5)
    for env in (one, same, other):
        env.reset()
    same.action_space.seed(9)
    same.action_space.sample()
    np.random.seed(9)
    state = [env._physics.get_state() for env in (one, same, other)]
    assert np.array_equal(state[0], state[1]) and not np.array_equal(state[0], state[2])
    same.action_space.seed(4)  # which the other got when it was built
    alone = make("reacher easy", seed=4)
    alone.reset()
    actions = random_actions(alone, 4)
    expected = [digest(*alone.step(action)[:2]) for action in actions]
    together = [[digest(*env.step(action)[:2]) for env in (one, same, other)] for action in actions]
    assert [seen[0] for seen in together] == [seen[1] for seen in together] == expected
    assert [seen[2] for seen in together] != expected
    assert np.array_equal(one.action_space.sample(), same.action_space.sample())
    for env in (one, same, other, alone):
        env.close()


@pytest.mark.parametrize("task", ["finger turn_hard", "ball_in_cup catch"])
def test_a_seed_at_reset_is_the_seed_of_a_new_environment(task):
    old, new = make(task, seed=5), make(task, seed=3)
    old.reset()
    play(old, 0, 2)
    old.reset()
    continued, _ = old.reset()
    first, _ = new.reset()
    again, _ = old.reset(seed=3)
    assert np.array_equal(again, first) and not np.array_equal(continued, first)
    for action in random_actions(new, 3):
        assert digest(*old.step(action)[:2]) == digest(*new.step(action)[:2])
    old.close()
    new.close()


def go_on(folder):
    """Prints what fresh environments do that load the checkpoints in `folder`; runs in a process of its own."""
    seen = {}
    for task in BENCHMARK:
        env = make(task, replace(CONFIG, action_repeat=8), seed=99)
        _, state = Checkpoints(Path(folder) / task, 0, "").load(None, lambda line: None)
        env.load_state(state)
        seen[task] = play(env, SPLIT, LAST)
        env.close()
    print(json.dumps(seen))


def test_a_new_process_goes_on_from_a_checkpoint(tmp_path):
    expected = {}
    for task in BENCHMARK:
        env = make(task, replace(CONFIG, action_repeat=8))
        env.reset()
        play(env, 0, SPLIT)
        Checkpoints(tmp_path / task, 0, "").save(0, env.state(), None)
        expected[task] = play(env, SPLIT, LAST)
        env.close()
    program = f"from tests.dmcontrol.test_environment import go_on\ngo_on({str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == expected
    assert all(len(seen) == LAST - SPLIT + 2 for seen in expected.values())


@pytest.mark.parametrize("task", ["finger turn_hard", "quadruped escape"])
def test_a_state_holds_what_a_task_changed_in_its_model(task):
    env, used = make(task, seed=1), make(task, seed=2)
    for environment in (env, used):
        environment.reset()
        assert environment.state()["model"], "this task changes nothing"
    play(env, 0, SPLIT)
    assert not np.array_equal(env.render(), used.render())
    used.load_state(env.state())
    assert np.array_equal(env.render(), used.render())
    assert np.array_equal(env._physics.data.sensordata, used._physics.data.sensordata)
    assert play(used, SPLIT, SPLIT + 3) == play(env, SPLIT, SPLIT + 3)
    env.close()
    used.close()


def test_a_state_knows_how_far_the_episode_and_the_draws_are():
    config = replace(CONFIG, action_repeat=500)
    env, fresh = make("pendulum swingup", config), make("pendulum swingup", config)
    env.reset()
    env.step(env.action_space.high)
    env._suite.task.random.randn()  # normal draws come in pairs: the second one waits
    fresh.load_state(env.state())
    assert fresh._suite.task.random.randn() == env._suite.task.random.randn()
    assert fresh.step(env.action_space.high)[3]
    env.load_state(fresh.state())
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(env.action_space.high)
    env.close()
    fresh.close()


def test_a_state_of_another_task_is_refused():
    env, other = make("reacher easy"), make("reacher hard")
    with pytest.raises(ValueError, match="the state is of reacher_hard, this environment is of reacher_easy"):
        env.load_state(other.state())
    env.close()
    other.close()


def test_it_is_silent_and_leaves_torch_alone():
    program = (
        "import sys\nfrom dmcontrol.config import EnvironmentConfig\nfrom dmcontrol.environment import DMControlEnv\n"
        "DMControlEnv('reacher', 'easy', EnvironmentConfig(16, 3, 4, 0, 1000, 0), seed=1).reset()\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
