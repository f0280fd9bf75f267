import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy
from gymnasium.utils.env_checker import check_env

from atari.config import EnvironmentConfig
from atari.emulators import Emulator
from atari.environment import AtariEnv
from harness.config import ConfigError
from tests.golden.atari_h_i import replay_h, replay_i
from tests.golden.check import DATA, assert_all

CONFIG = EnvironmentConfig(
    emulator="ale",
    image_size=84,
    frame_stack=4,
    action_repeat=4,
    max_noops=30,
    horizon=27_000,
    sticky_actions=0.0,
    terminal_on_life_loss=True,
)


def make(game, config=CONFIG, *, seed=1, index=0, training=True, horizon=27_000):
    return AtariEnv(game, config, seed=seed, index=index, training=training, horizon=horizon)


def random_actions(env, count, seed=0):
    return np.random.RandomState(seed).randint(0, env.action_space.n, count).tolist()


def play(env, actions):
    """Everything that can be seen of the steps, pictures included; a finished game is reset."""
    seen = []
    for action in actions:
        obs, reward, terminated, truncated, info = env.step(action)
        seen.append((obs.tobytes(), env.render().tobytes(), reward, terminated, truncated, tuple(info.values())))
        if terminated or truncated:
            obs, info = env.reset()
            seen.append((obs.tobytes(), env.render().tobytes(), 0.0, False, False, tuple(info.values())))
    return seen


def test_traces():
    assert_all(replay_h(DATA / "atari"))


def test_noop_starts():
    assert_all(replay_i(DATA / "atari"))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.filterwarnings("ignore:.*alternative render modes")
def test_gymnasium_accepts_it(training):
    check_env(make("pong", training=training))


def test_frames_are_small_and_render_is_not():
    env = make("breakout", replace(CONFIG, image_size=42, frame_stack=2))
    obs, info = env.reset()
    assert obs.shape == (2, 42, 42) and obs.dtype == np.uint8
    assert info == {"life_lost": False, "raw_reward": 0.0, "lives": 5}
    assert env.render().shape == (210, 160, 3) and env.render().dtype == np.uint8


def test_observations_are_not_overwritten_by_later_steps():
    env = make("pong")
    obs, _ = env.reset()
    before = obs.copy()
    play(env, random_actions(env, 3))
    assert np.array_equal(obs, before)


def test_an_unknown_game_is_refused():
    with pytest.raises(ConfigError, match="did you mean pong"):
        make("pnog")


@pytest.mark.parametrize("horizon", [0, 5])
def test_horizon_is_tested_before_the_count(horizon):
    env = make("pong", horizon=horizon)
    for _ in range(2):
        env.reset()
        flags = [env.step(0)[2:4] for _ in range(horizon + 1)]
        assert flags == [(False, False)] * horizon + [(False, True)]


def first_lost_life(env):
    """Observation and info of the step at which the lives fall, and the rewards up to it."""
    _, info = env.reset()
    lives, rewards = info["lives"], []
    for action in random_actions(env, 1000):
        obs, reward, terminated, truncated, info = env.step(action)
        rewards.append((reward, info["raw_reward"]))
        if info["lives"] < lives:
            assert not terminated and not truncated
            return obs, info, rewards
    raise AssertionError("no life was lost")


def test_a_lost_life_blanks_the_stack_in_training_only():
    obs, info, rewards = first_lost_life(make("ms_pacman"))
    assert info["life_lost"] and not obs[:-1].any() and obs[-1].any()
    assert {reward for reward, _ in rewards} == {0.0, 1.0}
    assert all(reward == np.sign(raw) for reward, raw in rewards) and max(raw for _, raw in rewards) >= 10.0

    going_on = replace(CONFIG, terminal_on_life_loss=False)
    for env in (make("ms_pacman", training=False), make("ms_pacman", going_on)):
        obs, info, same_rewards = first_lost_life(env)
        assert not info["life_lost"] and all(frame.any() for frame in obs)
        assert [raw for _, raw in same_rewards] == [raw for _, raw in rewards]
        assert env.training or all(reward == raw for reward, raw in same_rewards)


@pytest.mark.parametrize(
    ("game", "config"),
    [
        ("pong", CONFIG),
        ("breakout", CONFIG),
        ("ms_pacman", CONFIG),
        ("qbert", CONFIG),
        ("pong", replace(CONFIG, sticky_actions=0.25)),
        ("breakout", replace(CONFIG, sticky_actions=0.9)),
        ("pong", replace(CONFIG, action_repeat=1)),
    ],
)
def test_a_fresh_environment_goes_on_from_a_state(game, config):
    env = make(game, config, horizon=250)
    env.reset()
    actions = random_actions(env, 437)
    play(env, actions[:137])
    fresh = make(game, config, seed=99, index=7, horizon=250)
    fresh.load_state(through_files(env.state()))
    assert np.array_equal(fresh.render(), env.render())
    assert_same(fresh.state(), env.state())
    expected, actual = play(env, actions[137:]), play(fresh, actions[137:])
    assert actual == expected
    assert len(expected) > 300, "no reset was seen"
    assert game == "pong" or any(info[0] for *_, info in expected), "no life was lost"


@pytest.mark.parametrize("sticky_actions", [0.25, 0.9])
def test_a_state_knows_the_action_that_the_emulator_holds(sticky_actions):
    env = make("pong", replace(CONFIG, sticky_actions=sticky_actions))
    env.reset()
    fresh = make("pong", replace(CONFIG, sticky_actions=sticky_actions), seed=2)
    for trial in range(30):
        play(env, random_actions(env, 5, seed=trial))
        fresh.load_state(env.state())
        last = random_actions(env, 2, seed=100 + trial)
        assert play(fresh, last) == play(env, last)


def test_a_state_of_another_game_is_refused():
    with pytest.raises(ValueError, match="the state is of breakout on ale, this environment plays pong on ale"):
        make("pong").load_state(make("breakout").state())


def through_files(state):
    """A JSON document and safetensors, as a checkpoint stores them."""
    arrays = {key: value for key, value in state.items() if isinstance(value, np.ndarray)}
    assert {array.dtype.name for array in arrays.values()} <= {"uint8", "uint32", "int64"}
    values = {key: value for key, value in state.items() if key not in arrays}
    return json.loads(json.dumps(values)) | safetensors.numpy.load(safetensors.numpy.save(arrays))


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        assert np.array_equal(actual[key], value), key


def test_a_seed_at_reset_is_the_seed_of_a_new_environment():
    old, new = make("pong", seed=5), make("pong", seed=3)
    old.reset()
    old.reset(seed=3)
    new.reset()
    assert_same(old.state(), new.state())


def test_sticky_actions_reach_the_emulator():
    def frames(sticky_actions, seed):
        emulator = Emulator("pong", sticky_actions=sticky_actions, seed=seed)
        assert emulator.ale.getFloat("repeat_action_probability") == pytest.approx(sticky_actions)
        emulator.reset()
        for _ in range(200):
            emulator.act(3)
            emulator.act(4)
        return emulator.picture().tobytes()

    assert frames(0.0, seed=1) == frames(0.0, seed=2)
    assert frames(0.5, seed=1) != frames(0.5, seed=2)


def test_it_is_silent_and_leaves_torch_alone():
    program = (
        "import sys\nfrom atari.config import EnvironmentConfig\nfrom atari.environment import AtariEnv\n"
        f"AtariEnv('pong', {CONFIG}, seed=1, training=True, horizon=9).reset()\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=DATA.parents[2])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
