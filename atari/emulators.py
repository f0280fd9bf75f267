"""The two emulators: ale-py, and atari-py, which the paper used.

atari-py is optional. Nothing here imports torch: environment workers stay small.
"""

import hashlib
from contextlib import suppress
from pathlib import Path

import numpy as np
from ale_py import ALEInterface, ALEState, LoggerMode, roms

from harness.config import ConfigError

NOOP = 0
SETTLING_FRAMES = 8
# Games in which ale-py and atari-py 0.2.6 differ, by the table of docs/emulators.md.
REWARDS_DIFFER = "assault battle_zone boxing chopper_command demon_attack frostbite krull seaquest".split()  # or lives
PICTURES_DIFFER = "amidar bank_heist gopher hero private_eye road_runner".split()


def emulator_note(game: str, emulator: str) -> str | None:
    """One line on a game that the paper's emulator plays differently; None where there is nothing to say."""
    if emulator != "ale":
        return None
    for games, what in ((REWARDS_DIFFER, "rewards or lives"), (PICTURES_DIFFER, "pictures")):
        if game in games:
            return f"in {game} ale-py differs from the paper's atari-py in {what} (environment.emulator=atari_py, F8)"
    return None


class Emulator:
    """One console of ale-py, with what snapshots leave out: the last picture and the action that is held on to."""

    def __init__(self, game: str, *, sticky_actions: float, seed: int):
        self.ale = self._make()
        self.ale.setInt("random_seed", seed)
        self.ale.setFloat("repeat_action_probability", sticky_actions)  # both count from loadROM on
        self.ale.loadROM(str(self.rom_path(game)))
        self.actions = self._minimal_actions()
        self.screen_shape = self._screen_shape()
        # Until its next frame a restored emulator shows an older one.
        self._restored: dict[str, np.ndarray] | None = None
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
        return self._colours() if self._restored is None else self._restored["picture"].copy()

    def state(self) -> dict:
        """Flat dict of ints and arrays from which a fresh object of the same game and settings goes on exactly."""
        screen = np.empty(self.screen_shape, dtype=np.uint8)
        self.grab(screen)
        return {
            "emulator": self._snapshot(),
            "screen": screen,
            "picture": self.picture(),
            "held_action": self._held,
            **generator_state("sticky", self._draws),
        }

    def load_state(self, state: dict) -> None:
        snapshot = np.asarray(state["emulator"])
        self.reset()
        for _ in range(2):
            # A snapshot lacks the video chip's place in its frame and its masks, and there is no setter for the held
            # action: frames played before bring them about, first of a new game, then of the snapshot's own.
            frames = 0
            while frames < SETTLING_FRAMES or self._held != state["held_action"]:
                self.act(state["held_action"])
                frames += 1
            self._restore(snapshot)
            load_generator_state("sticky", self._draws, state)
        self._restored = {key: np.asarray(state[key]).copy() for key in ("screen", "picture")}

    @staticmethod
    def rom_path(game: str) -> Path:
        return Path(roms.get_rom_path(game))

    def _make(self):
        ALEInterface.setLoggerMode(LoggerMode.Error)  # before the object exists: building it prints a banner
        return ALEInterface()

    def _minimal_actions(self) -> list[int]:
        return [int(action.value) for action in self.ale.getMinimalActionSet()]

    def _screen_shape(self) -> tuple[int, int]:
        return self.ale.getScreenDims()

    def _colours(self) -> np.ndarray:
        return self.ale.getScreenRGB()

    def _snapshot(self) -> np.ndarray:
        """Memory, counters and generator, uint8 [bytes]."""
        return np.frombuffer(self.ale.cloneState(include_rng=True).serialize(), dtype=np.uint8).copy()

    def _restore(self, snapshot: np.ndarray) -> None:
        self.ale.restoreState(ALEState(snapshot.tobytes()))


class AtariPyEmulator(Emulator):
    """An emulator on atari-py 0.2.6 and its ROMs. It has no sticky actions: they share the generator of its memory."""

    @staticmethod
    def rom_path(game: str) -> Path:
        import atari_py

        with suppress(OSError):
            path = Path(atari_py.get_game_path(game))
            if path.is_file():
                return path
        raise ConfigError(f"atari-py has no ROM of {game}: play it with environment.emulator=ale")

    def _make(self):
        import atari_py

        return atari_py.ALEInterface()

    def _minimal_actions(self) -> list[int]:
        return self.ale.getMinimalActionSet().tolist()

    def _screen_shape(self) -> tuple[int, int]:
        width, height = self.ale.getScreenDims()
        return height, width

    def _colours(self) -> np.ndarray:
        return self.ale.getScreenRGB2()

    def _snapshot(self) -> np.ndarray:
        state = self.ale.cloneSystemState()
        try:
            return self.ale.encodeState(state)
        finally:
            self.ale.deleteState(state)

    def _restore(self, snapshot: np.ndarray) -> None:
        state = self.ale.decodeState(np.ascontiguousarray(snapshot))
        try:
            self.ale.restoreSystemState(state)
        finally:
            self.ale.deleteState(state)


CONSOLES = {"ale": Emulator, "atari_py": AtariPyEmulator}


def make_emulator(emulator: str, game: str, *, sticky_actions: float, seed: int) -> Emulator:
    return CONSOLES[emulator](game, sticky_actions=sticky_actions, seed=seed)


def rom_md5(game: str, emulator: str) -> str:
    return hashlib.md5(CONSOLES[emulator].rom_path(game).read_bytes()).hexdigest()


def generator_state(name: str, generator: np.random.RandomState) -> dict:
    _, key, position, *_ = generator.get_state()  # the rest belongs to normal draws, which nobody makes here
    return {f"{name}_key": key, f"{name}_position": position}


def load_generator_state(name: str, generator: np.random.RandomState, state: dict) -> None:
    generator.set_state(("MT19937", np.asarray(state[f"{name}_key"]), state[f"{name}_position"], 0, 0.0))
