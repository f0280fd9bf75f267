"""Atari 2600 games with the protocol of Atari-100k, on an emulator's low-level interface.

`K` stacked frames, `H, W` pixels. Nothing here imports torch: environment workers stay small.
"""

import hashlib

import cv2
import gymnasium
import numpy as np

from atari.config import AtariConfig, EnvironmentConfig
from atari.emulators import NOOP, generator_state, load_generator_state, make_emulator
from atari.games import require_emulator, require_game
from harness.spans import span


def seed_words(seed: int) -> tuple[int, int]:
    """The first two little-endian 32-bit words of SHA-512 of the decimal seed: nearby seeds must not be related."""
    digest = hashlib.sha512(str(seed).encode()).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:8], "little")


def noop_generator(seed: int, index: int) -> np.random.RandomState:
    """Generator of the no-op starts of environment `index` of a run."""
    return np.random.RandomState(list(seed_words(100 * seed + index if index else seed)))


def draw_noops(generator: np.random.RandomState, max_noops: int) -> int:
    """Number of no-ops at a reset, 1 to `max_noops`."""
    return int(generator.randint(1, max_noops + 1)) if max_noops else 0


def emulator_seed(seed: int) -> int:
    """Seed of the emulator's own generator, which only sticky actions read; one for all environments of a run."""
    return seed_words(seed + 1)[0] % 2**31


class AtariEnv(gymnasium.Env):
    """One game under the protocol of Atari-100k: action repeat, maximum of two frames, no-op starts, life loss.

    Observations are uint8 [K, H, W] grayscale, old to new; the action is an index into the game's minimal action set.
    In training the reward is the sign of the raw one. A lost life blanks the stack and is reported in `info`, and the
    game goes on. In evaluation the reward is raw. `index` tells the environments of a run apart, `horizon` is in
    agent steps. Raises ConfigError for an unknown game, and for an emulator that is not installed.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}  # one picture per step of four frames

    def __init__(
        self, game: str, config: EnvironmentConfig, *, seed: int, index: int = 0, training: bool, horizon: int
    ):
        require_game(game)
        require_emulator(config.emulator, config.sticky_actions)
        self.game, self.index, self.training, self.horizon = game, index, training, horizon
        self.render_mode = "rgb_array"
        self._config = config
        self._size = (config.image_size, config.image_size)
        self._stack = np.zeros((config.frame_stack, *self._size), dtype=np.uint8)
        self._lives = self._steps = 0
        self._start_from(seed)
        self._screens = np.zeros((2, *self.emulator.screen_shape), dtype=np.uint8)
        self.action_space = gymnasium.spaces.Discrete(len(self.emulator.actions))
        self.observation_space = gymnasium.spaces.Box(0, 255, self._stack.shape, np.uint8)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        """Starts a game after a no-op, which shows the lives, and 1 to `max_noops` more.

        A `seed` starts the environment over as if built with it.
        """
        super().reset(seed=seed)
        if seed is not None:
            self._start_from(seed)
        self.emulator.reset()
        self._blank()
        self._steps = 0
        self._noop()
        for _ in range(draw_noops(self._noops, self._config.max_noops)):
            self.emulator.act(NOOP)
        self.emulator.grab(self._screens[1])
        self._push_frame()
        return self._stack.copy(), self._info(life_lost=False, raw_reward=0.0)

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Repeats the action; terminated is game over, truncated the horizon, a lost life is `info["life_lost"]`."""
        emulated = self.emulator.actions[action]
        raw_reward = sum(self.emulator.act(emulated) for _ in range(self._config.action_repeat - 1))
        self.emulator.grab(self._screens[0])
        raw_reward += self.emulator.act(emulated)
        life_dropped = 0 < self.emulator.ale.lives() < self._lives
        life_lost = life_dropped and self.training and self._config.terminal_on_life_loss
        if life_dropped:
            self._noop()  # its reward belongs to no action
        if life_lost:
            self._blank()
        self.emulator.grab(self._screens[1])
        self._push_frame()
        terminated = self.emulator.ale.game_over()
        truncated = self._steps >= self.horizon  # tested before the count: horizon + 1 steps at most
        self._steps += 1
        reward = float(np.sign(raw_reward)) if self.training else float(raw_reward)
        return self._stack.copy(), reward, terminated, truncated, self._info(life_lost, float(raw_reward))

    def render(self) -> np.ndarray:
        """The console's last picture in colour, uint8 [210, 160, 3] for an NTSC game."""
        return self.emulator.picture()

    def state(self) -> dict:
        """Flat dict of JSON values and numpy arrays; a fresh object that loads it goes on exactly."""
        return {
            "game": self.game,
            "emulator_name": self._config.emulator,
            **self.emulator.state(),
            "stack": self._stack.copy(),
            "lives": self._lives,
            "steps": self._steps,
            **generator_state("noop", self._noops),
        }

    def load_state(self, state: dict) -> None:
        """Takes over a `state()` of the same game and settings; raises ValueError for another game or emulator."""
        theirs, ours = (state["game"], state["emulator_name"]), (self.game, self._config.emulator)
        if theirs != ours:
            raise ValueError(f"the state is of {' on '.join(theirs)}, this environment plays {' on '.join(ours)}")
        self.emulator.load_state(state)
        self._stack[:] = state["stack"]
        self._lives, self._steps = state["lives"], state["steps"]
        load_generator_state("noop", self._noops, state)

    def _start_from(self, seed: int) -> None:
        self.emulator = make_emulator(
            self._config.emulator, self.game, sticky_actions=self._config.sticky_actions, seed=emulator_seed(seed)
        )
        self._noops = noop_generator(seed, self.index)

    def _noop(self) -> None:
        self.emulator.act(NOOP)
        self._lives = self.emulator.ale.lives()

    def _blank(self) -> None:
        self._stack[:] = 0
        self._screens[:] = 0

    def _push_frame(self) -> None:
        self._stack[:-1] = self._stack[1:]
        with span("resize"):
            brightest = np.maximum(self._screens[0], self._screens[1], out=self._screens[1])
            cv2.resize(brightest, self._size, dst=self._stack[-1], interpolation=cv2.INTER_LINEAR)

    def _info(self, life_lost: bool, raw_reward: float) -> dict:
        return {"life_lost": life_lost, "raw_reward": raw_reward, "lives": self.emulator.ale.lives()}


def make_environment(config: AtariConfig, seed: int, index: int, training: bool) -> AtariEnv:
    """The training environment of a run, or that of episode `index` of an evaluation."""
    horizon = config.environment.horizon if training else config.evaluation.horizon
    return AtariEnv(config.game, config.environment, seed=seed, index=index, training=training, horizon=horizon)
