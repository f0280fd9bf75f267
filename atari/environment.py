"""Atari 2600 games with the protocol of Atari-100k, on the emulator's low-level interface.

`K` stacked frames, `H, W` pixels. Nothing here imports torch: environment workers stay small.
"""

import hashlib

import cv2
import gymnasium
import numpy as np
from ale_py import ALEInterface, ALEState, LoggerMode, roms

from atari.config import EnvironmentConfig
from atari.games import require_game

NOOP = 0
SETTLING_FRAMES = 8


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


class Emulator:
    """One console, with what the emulator's snapshots leave out: the last picture and the action it holds on to."""

    def __init__(self, game: str, *, sticky_actions: float, seed: int):
        ALEInterface.setLoggerMode(LoggerMode.Error)  # before the object exists: building it prints a banner
        self.ale = ALEInterface()
        self.ale.setInt("random_seed", seed)
        self.ale.setFloat("repeat_action_probability", sticky_actions)  # both count from loadROM on
        self.ale.loadROM(roms.get_rom_path(game))
        self.actions = [int(action.value) for action in self.ale.getMinimalActionSet()]
        self.screen_shape = self.ale.getScreenDims()
        self._restored = None  # until its next frame a restored emulator shows an older one
        self._sticky_actions = sticky_actions
        self._draws = np.random.RandomState(seed)  # follows the emulator's generator, to know the held action
        self._held = NOOP

    def reset(self) -> None:
        self.ale.reset_game()
        self._held = NOOP
        self._restored = None

    def act(self, action: int) -> int:
        """Emulates one frame; returns the raw reward."""
        if self._sticky_actions:  # the emulator draws once for each of two players; the first draw is ours
            draw, _ = self._draws.randint(0, 2**32, size=2, dtype=np.uint32)
            if draw / 2**32 >= self._sticky_actions:
                self._held = action
        self._restored = None
        return self.ale.act(action)

    def grab(self, screen: np.ndarray) -> None:
        """Writes the last frame in grayscale into `screen`, uint8 [height, width]."""
        if self._restored is None:
            self.ale.getScreenGrayscale(screen)
        else:
            screen[:] = self._restored["screen"]

    def picture(self) -> np.ndarray:
        """The last frame in colour, uint8 [height, width, 3]."""
        return self.ale.getScreenRGB() if self._restored is None else self._restored["picture"].copy()

    def state(self) -> dict:
        """Flat dict of ints and arrays from which a fresh object of the same game and settings goes on exactly."""
        snapshot = self.ale.cloneState(include_rng=True).serialize()
        screen = np.empty(self.screen_shape, dtype=np.uint8)
        self.grab(screen)
        return {
            "emulator": np.frombuffer(snapshot, dtype=np.uint8).copy(),
            "screen": screen,
            "picture": self.picture(),
            "held_action": self._held,
            **generator_state("sticky", self._draws),
        }

    def load_state(self, state: dict) -> None:
        snapshot = ALEState(np.asarray(state["emulator"]).tobytes())
        self.reset()
        for _ in range(2):
            # A snapshot lacks the video chip's place in its frame and its masks, and there is no setter for the held
            # action: frames played before bring them about, first of a new game, then of the snapshot's own.
            frames = 0
            while frames < SETTLING_FRAMES or self._held != state["held_action"]:
                self.act(state["held_action"])
                frames += 1
            self.ale.restoreState(snapshot)
            load_generator_state("sticky", self._draws, state)
        self._restored = {key: np.asarray(state[key]).copy() for key in ("screen", "picture")}


class AtariEnv(gymnasium.Env):
    """One game under the protocol of Atari-100k: action repeat, maximum of two frames, no-op starts, life loss.

    Observations are uint8 [K, H, W] grayscale, old to new; the action is an index into the game's minimal action set.
    In training the reward is the sign of the raw one and a lost life blanks the stack and is reported in `info`, while
    the game goes on; in evaluation the reward is raw. `index` tells the environments of a run apart, `horizon` is in
    agent steps. Raises ConfigError for an unknown game.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}  # one picture per step of four frames

    def __init__(
        self, game: str, config: EnvironmentConfig, *, seed: int, index: int = 0, training: bool, horizon: int
    ):
        require_game(game)
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
        """Starts a game after 1 to `max_noops` no-ops; a `seed` starts the environment over as if built with it."""
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
            **self.emulator.state(),
            "stack": self._stack.copy(),
            "lives": self._lives,
            "steps": self._steps,
            **generator_state("noop", self._noops),
        }

    def load_state(self, state: dict) -> None:
        """Takes over a `state()` of the same game and settings; raises ValueError for another game's."""
        if state["game"] != self.game:
            raise ValueError(f"the state is of {state['game']}, this environment plays {self.game}")
        self.emulator.load_state(state)
        self._stack[:] = state["stack"]
        self._lives, self._steps = state["lives"], state["steps"]
        load_generator_state("noop", self._noops, state)

    def _start_from(self, seed: int) -> None:
        self.emulator = Emulator(self.game, sticky_actions=self._config.sticky_actions, seed=emulator_seed(seed))
        self._noops = noop_generator(seed, self.index)

    def _noop(self) -> None:
        self.emulator.act(NOOP)
        self._lives = self.emulator.ale.lives()

    def _blank(self) -> None:
        self._stack[:] = 0
        self._screens[:] = 0

    def _push_frame(self) -> None:
        self._stack[:-1] = self._stack[1:]
        brightest = np.maximum(self._screens[0], self._screens[1], out=self._screens[1])
        cv2.resize(brightest, self._size, dst=self._stack[-1], interpolation=cv2.INTER_LINEAR)

    def _info(self, life_lost: bool, raw_reward: float) -> dict:
        return {"life_lost": life_lost, "raw_reward": raw_reward, "lives": self.emulator.ale.lives()}


def generator_state(name: str, generator: np.random.RandomState) -> dict:
    _, key, position, *_ = generator.get_state()  # the rest belongs to normal draws, which nobody makes here
    return {f"{name}_key": key, f"{name}_position": position}


def load_generator_state(name: str, generator: np.random.RandomState, state: dict) -> None:
    generator.set_state(("MT19937", np.asarray(state[f"{name}_key"]), state[f"{name}_position"]))
