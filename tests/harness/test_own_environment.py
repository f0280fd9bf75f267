import functools
import subprocess
import sys
from dataclasses import replace

import cv2
import gymnasium
import numpy as np
import pytest

from harness.config import ConfigError, EnvironmentFacts
from harness.own_environment import OwnEnvironment, make_environment, require_playable
from recipes import COMMANDS
from tests.conftest import ROOT, make_config, make_dmcontrol_config
from tests.own_environments import Dot, KeptDot, PulledDot
from tests.waiting import HANG

HERE = "tests.own_environments"
GREY = EnvironmentFacts(
    image_size=20, channels=1, frame_stack=3, padding="zeros", action_repeat=2, time_limit=1000, discrete=True,
    elsewhere="the other script takes a Box",
)  # fmt: skip
COLOUR = replace(GREY, channels=3, padding="repeat", discrete=False)


def make(name, facts=GREY, seed=0):
    return OwnEnvironment(f"{HERE}:{name}", facts, seed)


@pytest.mark.parametrize("name, facts", [("Dot", GREY), ("SeenDot", GREY), ("GreyDot", GREY), ("PulledDot", COLOUR)])
def test_observations_are_stacks_of_the_last_pictures(name, facts):
    environment = make(name, facts)
    inner = environment.inner
    observation, _ = environment.reset()
    assert observation.shape == environment.observation_space.shape == (3 * facts.channels, 20, 20)
    frames = [expected_frame(inner, facts.channels)]
    frames = [frames[0] if facts.padding == "repeat" else 0 * frames[0]] * 2 + frames
    for step in range(5):
        assert observation.dtype == np.uint8 and np.array_equal(observation, np.concatenate(frames[-3:]))
        observation, *_ = environment.step(environment.action_space.sample())
        frames.append(expected_frame(inner, facts.channels))
        assert inner.steps == 2 * (step + 1)
    assert np.array_equal(environment.render(), np.broadcast_to(picture_of(inner), environment.render().shape))
    assert environment.metadata["render_fps"] == 10  # a step is two of the environment's, which has 20 in a second


def picture_of(inner):
    return inner.observation() if inner.observation_space.dtype == np.uint8 else inner.render()


def expected_frame(inner, channels):
    """[C, 20, 20] of the inner environment's picture, by another way: areas are means of pixels."""
    picture = picture_of(inner).astype(np.float64)
    if picture.shape[2] == 1:
        picture = picture.repeat(3, axis=2)
    if channels == 1:
        picture = np.rint(picture @ [0.299, 0.587, 0.114])[..., None]
    small = np.stack([cv2.resize(picture[..., i], (20, 20), interpolation=cv2.INTER_AREA) for i in range(channels)])
    return np.rint(small).astype(np.uint8)


@pytest.mark.parametrize("facts", [GREY, replace(GREY, padding="repeat")])
def test_a_stack_begins_as_the_replay_rebuilds_it(facts):
    import torch

    from harness.replay.frames import FrameStore

    assert facts.padding in ("zeros", "repeat")
    environment, store = make("Dot", facts), FrameStore(5, (20, 20), 3, facts.padding, "cpu")
    observations = [environment.reset()[0], *(environment.step(0)[0] for _ in range(3))]
    for slot, observation in enumerate(observations):
        store.write(slot, observation[-1])
    slots = torch.arange(4)
    assert np.array_equal(store.stack(slots, slots).numpy(), np.stack(observations))


def test_rewards_of_repeated_steps_are_summed_and_nothing_clips_them():
    environment, twin = make("Dot"), Dot()
    environment.reset()
    twin.reset(seed=0)
    twin.place, twin.np_random.bit_generator.state = (
        environment.inner.place,
        environment.inner.np_random.bit_generator.state,
    )
    for _ in range(4):
        _, reward, terminated, truncated, info = environment.step(1)
        expected = twin.step(1)[1] + twin.step(1)[1]
        assert reward == info["raw_reward"] == pytest.approx(expected) and expected > 2
        assert info["life_lost"] is False and (terminated, truncated) == (False, False)


def test_an_episode_ends_as_the_environment_says():
    environment = make("Dot")
    environment.reset()
    while True:
        _, _, terminated, truncated, _ = environment.step(0)
        if terminated or truncated:
            break
    assert terminated and not truncated and environment.inner.place < 0


def test_the_time_limit_truncates_in_environment_steps():
    environment = make("Dot", replace(GREY, time_limit=5))
    for _ in range(2):
        environment.reset()
        ends = [environment.step(step % 2)[2:4] for step in range(3)]
        assert ends == [(False, False), (False, False), (False, True)]
        assert environment.inner.steps == 5


def test_columns_of_the_environment_come_through():
    environment = make("SeenDot")
    environment.reset()
    *_, info = environment.step(0)
    assert info["columns"].keys() == {"success"}


def test_actions_are_mapped_to_the_environments_bounds():
    class Probe(PulledDot):
        def step(self, action):
            self.seen = action
            return super().step(action)

    environment = make("PulledDot", COLOUR)
    environment.inner = Probe()
    environment.reset()
    assert environment.action_space == gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    for action, expected in ((-1.0, 0.0), (0.5, 3.0), (1.0, 4.0)):
        environment.step(np.float32([action]))
        assert environment.inner.seen == pytest.approx([expected]) and environment.inner.seen.dtype == np.float32


def test_discrete_actions_may_begin_anywhere():
    environment = make("Dot")
    environment.inner.action_space = gymnasium.spaces.Discrete(2, start=7)
    assert environment._to_own(np.int64(1)) == 8


def test_each_episode_has_a_seed_of_its_own():
    one, same, other = make("Dot"), make("Dot"), make("Dot", seed=1)
    starts = [[start(environment) for _ in range(3)] for environment in (one, same, other)]
    assert starts[0] == starts[1] and len({*starts[0], *starts[2]}) == 6
    assert start(one, seed=0) == starts[0][0] and start(one) == starts[0][1]


def start(environment, seed=None):
    environment.reset(seed=seed)
    return environment.inner.place


def test_training_and_every_evaluation_episode_start_apart(tmp_path):
    for config in (
        make_config(tmp_path, f"env={HERE}:Dot"),
        make_dmcontrol_config(tmp_path, f"env={HERE}:PulledDot"),
    ):
        environments = [make_environment(config, 1, episode, False) for episode in range(3)]
        environments.append(make_environment(config, 1, 0, True))
        assert len({start(environment) for environment in environments}) == 4
        assert start(make_environment(config, 1, 2, False)) == start(make_environment(config, 1, 2, False))


def test_an_evaluation_has_the_time_limit_of_its_own(tmp_path):
    config = make_config(tmp_path, f"env={HERE}:Dot", "environment.horizon=5", "evaluation.horizon=3")
    for training, steps in ((True, 5), (False, 3)):
        environment = make_environment(config, 1, 0, training)
        environment.reset()
        assert next(count for count in range(1, 9) if any(environment.step(count % 2)[2:4])) == steps


@pytest.mark.parametrize("name, facts", [("Dot", GREY), ("CentredDot", GREY), ("PulledDot", COLOUR), ("KeptDot", GREY)])
@pytest.mark.parametrize("steps", [0, 7])
def test_a_fresh_object_goes_on_exactly(name, facts, steps, capsys):
    environment = make(name, facts)
    environment.action_space.seed(3)
    actions = [environment.action_space.sample() for _ in range(60)]
    environment.reset()
    for action in actions[:20]:  # into a later episode
        if any(environment.step(action)[2:4]):
            environment.reset()
    environment.reset()
    for action in actions[:steps]:
        environment.step(action)
    fresh = make(name, facts)
    fresh.load_state(environment.state())
    assert capsys.readouterr().out == ""
    for action in actions[steps:]:
        expected, found = environment.step(action), fresh.step(action)
        assert np.array_equal(expected[0], found[0]) and expected[1:] == found[1:]
        if expected[2] or expected[3]:
            assert np.array_equal(environment.reset()[0], fresh.reset()[0])
    assert environment.state().keys() == fresh.state().keys()


def test_an_environment_that_cannot_repeat_itself_is_said_so(capsys):
    environment, fresh = make("RestlessDot"), make("RestlessDot")
    environment.reset()
    for action in (0, 1, 0, 1):
        environment.step(action)
    fresh.inner.drift = np.random.default_rng(6)
    fresh.load_state(environment.state())
    (line,) = capsys.readouterr().out.splitlines()
    assert "RestlessDot went another way" in line and line.endswith("name the class, env=module:Class")
    assert np.array_equal(fresh._stack, environment._stack)
    fresh.step(0)


def test_an_environment_that_ends_sooner_the_second_time_begins_anew(capsys):
    environment, fresh = make("Dot", replace(GREY, time_limit=10)), make("Dot", replace(GREY, time_limit=4))
    environment.reset()
    for action in (0, 1, 0):
        environment.step(action)
    fresh.load_state(environment.state())
    assert "went another way" in capsys.readouterr().out and fresh.inner.steps == 0


def test_an_environments_own_state_is_used():
    assert KeptDot().reset(seed=1)[0] == KeptDot().reset(seed=1)[0]
    environment = make("KeptDot")
    environment.reset()
    assert "inner" in environment.state() and "actions" not in environment.state()


@functools.cache
def composed(script):
    return COMMANDS[script].resolve(["preset=tiny", f"env={HERE}:Dot"])


REFUSED = [  # script, env, words of the line
    ("atari", "no_such_module_here:Dot", "no module no_such_module_here"),
    ("atari", "tests.own_environment:Dot", "did you mean tests.own_environments?"),
    ("atari", "tests.own_environments.deeper:Dot", "no module tests.own_environments.deeper"),
    ("atari", ":Dot", "cannot be imported"),
    ("atari", "tests.own_environments:Dott", "no callable Dott and registers no such Gymnasium id; did you mean Dot?"),
    ("atari", "tests.own_environments:Dot-v4", "did you mean Dot-v3?"),
    ("atari", "tests.own_environments:Dot-v2", "did you mean Dot-v3?"),  # which Gymnasium calls deprecated
    ("atari", "tests.own_environments:A_NUMBER", "A_NUMBER in tests.own_environments is a int, not a callable"),
    ("atari", "tests.own_environments:not_an_environment", "gives a builtins.dict: it must give a gymnasium.Env"),
    (
        "atari",
        "tests.own_environments:SpacelessDot",
        "action_space of tests.own_environments.SpacelessDot is None: give it",
    ),
    ("atari", "tests.own_environments:dot_of_size", "cannot be made: TypeError"),
    ("atari", "tests.own_environments:OldDot", "fails in its first step: ValueError"),
    ("atari", "tests.own_environments:BlindDot", "shows no pixels"),
    ("atari", "tests.own_environments:PulledDot", "must be Discrete; mlr train dmcontrol takes a Box"),
    ("atari", "CartPol-v1", "no Gymnasium id CartPol-v1; did you mean CartPole-v1?"),
    ("atari", "tests.own_environments.Dot", "package.module:callable, an id that a package registers package:ID"),
    ("dmcontrol", "tests.own_environments:Dot", "finite bounds; mlr train atari takes Discrete"),
    ("dmcontrol", "tests.own_environments:UnboundedDot", "finite bounds"),
]


@pytest.mark.parametrize("script, env, words", REFUSED)
def test_what_cannot_be_played_is_refused_in_one_line(script, env, words):
    with pytest.raises(ConfigError) as refusal:
        require_playable(replace(composed(script), env=env))
    assert f"env={env}" in str(refusal.value) and words in str(refusal.value)


def test_an_environment_with_missing_parts_says_which(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(ConfigError, match="env=CartPole-v1 fails in its first step: .*pygame is not installed"):
        require_playable(make_config(tmp_path, "env=CartPole-v1"))


def test_a_module_of_the_current_folder_is_found_and_its_mistakes_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dot_in_a_folder.py").write_text("from tests.own_environments import Dot\n")
    (tmp_path / "dot_that_lacks.py").write_text("import a_module_that_is_nowhere\n")
    (tmp_path / "dot_with_a_slip.py").write_text("1 +\n")
    require_playable(make_config(tmp_path, "env=dot_in_a_folder:Dot"))
    for name, words in (("dot_that_lacks", "No module named 'a_module_that"), ("dot_with_a_slip", "SyntaxError")):
        with pytest.raises(ConfigError, match=f"{name} cannot be imported: .*{words}"):
            require_playable(make_config(tmp_path, f"env={name}:Dot"))
    with pytest.raises(ConfigError, match="did you mean dot_in_a_folder?"):
        require_playable(make_config(tmp_path, "env=dot_in_folder:Dot"))


@pytest.mark.parametrize(
    "make, settings, words",
    [
        (make_config, ["game=pong"], "game=pong exclude each other"),
        (make_dmcontrol_config, ["task=walker_walk"], "a task of the suite, walk, exclude each other"),
        (make_dmcontrol_config, ["domain=hopper"], "a task of the suite, hopper, exclude each other"),
    ],
)
def test_a_task_of_the_suite_beside_it_is_refused(make, settings, words, tmp_path):
    with pytest.raises(ConfigError, match=words):
        make(tmp_path, "env=CartPole-v1", *settings)


def test_settings_of_a_game_are_not_those_of_an_environment_with_its_name(tmp_path):
    assert make_config(tmp_path, "game=pong").mlr.weight == 5.0
    assert make_config(tmp_path, "env=my_module:pong").mlr.weight == 1.0


def test_a_refusal_is_one_line_exit_2_and_comes_before_torch(tmp_path):
    command = [sys.executable, "-X", "importtime", "scripts/train_atari.py", f"env={HERE}:PulledDot"]
    settings = [f"run_dir={tmp_path / 'run'}", "preset=tiny"]
    result = subprocess.run([*command, *settings], cwd=ROOT, capture_output=True, text=True, timeout=HANG, check=False)
    imported, others = [], []
    for line in result.stderr.splitlines():
        (imported if line.startswith("import time:") else others).append(line)
    assert result.returncode == 2 and len(others) == 1 and others[0].startswith("error: env=")
    assert len(imported) > 100 and not any(line.split("|")[-1].strip() == "torch" for line in imported)
    assert not list(tmp_path.iterdir())
