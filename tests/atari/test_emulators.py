import json
import subprocess
import sys
import types
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from atari import emulators, games, suite
from atari.config import EnvironmentConfig
from atari.emulators import PICTURES_DIFFER, REWARDS_DIFFER, emulator_note
from atari.environment import AtariEnv
from atari.games import PAPER_GAMES
from harness.config import ConfigError
from tests.conftest import make_config

ROOT = Path(__file__).parents[2]
needs_atari_py = pytest.mark.skipif(find_spec("atari_py") is None, reason="atari-py is not installed")
CONFIG = EnvironmentConfig(
    emulator="atari_py",
    image_size=84,
    frame_stack=4,
    action_repeat=4,
    max_noops=30,
    horizon=27_000,
    sticky_actions=0.0,
    terminal_on_life_loss=True,
)


def make(game, config=CONFIG, seed=1, horizon=27_000):
    return AtariEnv(game, config, seed=seed, training=True, horizon=horizon)


def play(env, actions):
    seen = []
    for action in actions:
        obs, reward, terminated, truncated, info = env.step(action)
        seen.append((obs.tobytes(), env.render().tobytes(), reward, terminated, truncated, tuple(info.values())))
        if terminated or truncated:
            seen.append(env.reset()[0].tobytes())
    return seen


def test_a_note_is_one_line_on_a_game_that_differs():
    noted = {game for game in PAPER_GAMES if emulator_note(game, "ale")}
    assert noted == {*REWARDS_DIFFER, *PICTURES_DIFFER} and len(noted) == 14
    assert "rewards or lives" in emulator_note("seaquest", "ale") and "pictures" in emulator_note("hero", "ale")
    assert "\n" not in emulator_note("hero", "ale")
    assert not any(emulator_note(game, "atari_py") for game in PAPER_GAMES)


def test_a_manifest_holds_what_a_replay_of_scores_asks_for(monkeypatch):
    monkeypatch.setattr(suite, "version", lambda package: "0.2.6")
    monkeypatch.setattr(suite, "rom_md5", lambda game, emulator: "a digest")
    config = types.SimpleNamespace(game="pong", environment=CONFIG)
    assert suite.simulator(config) == {"atari-py": "0.2.6", "rom_md5": "a digest"}
    assert suite.simulator(config).items() <= suite.manifest(config, None).items()


def test_what_cannot_be_played_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="environment.emulator=stella is not one of ale, atari_py"):
        make_config(tmp_path, "environment.emulator=stella")
    with pytest.raises(ConfigError, match="plays without sticky actions only: .* must be 0"):
        make_config(tmp_path, "environment.emulator=atari_py", "environment.sticky_actions=0.25")
    monkeypatch.setattr(games, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the package atari-py: pip install -e '\.\[atari-py\]'"):
        make("pong")


@pytest.mark.parametrize("has_check", [False, True])
def test_a_game_without_a_rom_in_atari_py_is_refused(monkeypatch, tmp_path, has_check):
    """atari-py names a file that is not there, or raises."""

    def path(game):
        if has_check:
            raise OSError(f"ROM is missing for {game}")
        return str(tmp_path / f"{game}.bin")

    monkeypatch.setitem(sys.modules, "atari_py", types.SimpleNamespace(get_game_path=path))
    with pytest.raises(ConfigError, match="^atari-py has no ROM of atlantis2: play it with environment.emulator=ale$"):
        emulators.rom_md5("atlantis2", "atari_py")
    if not has_check:
        (tmp_path / "pong.bin").write_bytes(b"")
        assert emulators.rom_md5("pong", "atari_py") == "d41d8cd98f00b204e9800998ecf8427e"


def test_a_state_of_the_other_emulator_is_refused():
    env = make("pong", replace(CONFIG, emulator="ale"))
    with pytest.raises(ValueError, match="the state is of pong on atari_py, this environment plays pong on ale"):
        env.load_state(env.state() | {"emulator_name": "atari_py"})


@needs_atari_py
@pytest.mark.parametrize("game", ["pong", "ms_pacman", "qbert"])
def test_both_play_the_same_where_they_agree(game):
    actions = np.random.RandomState(0).randint(0, 6, 300).tolist()
    ours, paper = make(game, replace(CONFIG, emulator="ale")), make(game)
    assert np.array_equal(ours.reset()[0], paper.reset()[0])
    assert play(ours, actions) == play(paper, actions)


@needs_atari_py
@pytest.mark.parametrize("game", ["breakout", "hero", "assault"])
def test_a_fresh_environment_goes_on_from_a_state(game):
    env = make(game, horizon=120)
    env.reset()
    actions = np.random.RandomState(0).randint(0, env.action_space.n, 400).tolist()
    play(env, actions[:137])
    state = json.loads(json.dumps({key: value for key, value in env.state().items() if not hasattr(value, "dtype")}))
    fresh = make(game, seed=99, horizon=120)
    fresh.load_state(env.state() | state)
    assert np.array_equal(fresh.render(), env.render())
    assert play(fresh, actions[137:]) == play(env, actions[137:])


def test_nothing_imports_torch_or_atari_py():
    assert "atari_py" not in vars(emulators)
    program = "import atari.emulators, sys\nassert not {'torch', 'atari_py'} & sys.modules.keys()"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0
