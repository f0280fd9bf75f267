"""An environment of the user's own: found by name, checked, and shown to an agent as stacked frames.

`C` channels of a frame, `K` stacked frames, `S` pixels a side of a frame, `H, W` pixels of a picture, `A` action size.
Nothing here imports torch: environment workers stay small.
"""

import os
import pkgutil
import sys
from collections.abc import Callable, Iterable
from contextlib import closing
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

import cv2
import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

from harness.config import ConfigError, EnvironmentFacts, require
from harness.libraries import load_triton_first
from harness.messages import nearest
from harness.seeding import derive_seed, environment_seed
from harness.spans import span

SEEDS = 2**31  # Many simulators take no larger seed.
FPS = 30  # frames per second of a video where the environment names no rate


class OwnEnvironment(gymnasium.Env):
    """The environment that `env` names or `make` gives, observed as a stack of its last pictures.

    Observations are uint8 [K * C, S, S], old to new. A picture is the environment's own observation if that is uint8
    [H, W, 3] or [H, W, 1], else what render() gives. Actions are an index, or float32 [A] in [-1, 1], mapped to the
    environment's bounds. Rewards are summed over the repeated steps, and nothing clips them.

    Each episode is reset with a seed derived from `seed` and the episode's number. `state()` holds that number and the
    actions since the reset, and `load_state()` plays them again. This is exact if `reset(seed=...)` decides all that
    follows. Two things are not restored: draws from a generator that the seed does not reach, and what the environment
    keeps from earlier episodes. An environment with methods `state` and `load_state` is restored by these instead:
    a nested dict of JSON values and arrays, with which a fresh object goes on exactly. Both are found on the object
    that `env` gives. A Gymnasium id gives wrappers without them, so name the class, `env=module:Class`.

    Raises ConfigError for an environment that cannot be made, or whose actions or pixels do not fit.
    """

    def __init__(self, env: str, facts: EnvironmentFacts, seed: int, make: Callable[[], gymnasium.Env] | None = None):
        self._env, self._facts, self._seed = env, facts, seed
        load_triton_first()
        self.inner = make_own(env) if make is None else make()  # the environment itself, which takes other actions
        space = self.inner.observation_space
        is_uint8 = isinstance(space, Box) and space.dtype == np.uint8
        self._observes_pictures = is_uint8 and len(space.shape) == 3 and space.shape[2] in (1, 3)
        self._has_state = all(callable(getattr(self.inner, name, None)) for name in ("state", "load_state"))
        self._stack = np.zeros((facts.frame_stack * facts.channels, facts.image_size, facts.image_size), np.uint8)
        self._picture = np.zeros((facts.image_size, facts.image_size, 1), np.uint8)
        self._episode, self._env_steps = -1, 0
        self._actions: list[Any] = []
        self.action_space = fitting_action_space(env, self.inner.action_space, facts)
        self.observation_space = Box(0, 255, self._stack.shape, np.uint8)
        self.render_mode = "rgb_array"
        fps = self.inner.metadata.get("render_fps") or FPS
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": fps / facts.action_repeat}

    @property
    def source(self) -> str:
        """Class of the environment, without its wrappers."""
        kind = type(self.inner.unwrapped)
        return f"{kind.__module__}.{kind.__qualname__}"

    @property
    def pixels(self) -> str:
        """Source of the pictures, for messages."""
        return "its observations" if self._observes_pictures else "render()"

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        """Starts the next episode; a `seed` starts the environment over as if built with it."""
        super().reset(seed=seed)
        if seed is not None:
            self._seed, self._episode = seed, -1
        self._episode += 1
        self._actions, self._env_steps = [], 0
        observation, info = self.inner.reset(seed=derive_seed(self._seed, self._episode) % SEEDS, options=options)
        frames = self._stack.reshape(-1, self._facts.channels, *self._stack.shape[1:])
        frames[:-1] = 0
        frames[-1] = self._frame(observation)
        if self._facts.padding == "repeat":
            frames[:-1] = frames[-1]
        return self._stack.copy(), self._info(info, 0.0)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Repeats the action until the episode ends or its time limit is reached, which truncates it."""
        self._actions.append(np.array(action))
        own_action, reward = self._to_own(action), 0.0
        for _ in range(self._facts.action_repeat):
            observation, step_reward, terminated, truncated, info = self.inner.step(own_action)
            reward += float(step_reward)
            self._env_steps += 1
            truncated = bool(truncated) or self._env_steps >= self._facts.time_limit
            if terminated or truncated:
                break
        channels = self._facts.channels
        self._stack[:-channels] = self._stack[channels:]
        self._stack[-channels:] = self._frame(observation)
        return self._stack.copy(), reward, bool(terminated), truncated, self._info(info, reward)

    def render(self) -> np.ndarray:
        """The picture uint8 [H, W, 3] that the newest frame was made of."""
        return in_colour(self._picture).copy()

    def close(self) -> None:
        self.inner.close()

    def state(self) -> dict:
        """Nested dict of JSON values and arrays. A fresh object that loads it goes on as the class says."""
        inner = {"inner": self.inner.state()} if self._has_state else {"actions": np.array(self._actions)}
        return {"episode": self._episode, "env_steps": self._env_steps, "stack": self._stack.copy(), **inner}

    def load_state(self, state: dict) -> None:
        """Takes over a `state()`; prints a line where playing the actions again ends elsewhere."""
        stack = np.asarray(state["stack"])
        if self._has_state:
            self.inner.load_state(state["inner"])
            self._episode, self._env_steps, self._stack[:] = state["episode"], state["env_steps"], stack
            self._picture = self._stack[-self._facts.channels :].transpose(1, 2, 0)
            return
        whole = self._play_again(state["episode"], np.asarray(state["actions"]))
        equal = whole and np.array_equal(self._stack, stack)
        self._stack[:] = stack  # as the replay holds it
        if not equal:
            print(
                f"env={self._env} went another way when its episode was played again, so the run goes on from another "
                "state: reset(seed=...) must decide all that follows, or the environment needs state() and load_state()"
                "; a Gymnasium id gives wrappers without them, so name the class, env=module:Class"
            )

    def _play_again(self, episode: int, actions: np.ndarray) -> bool:
        """Plays the first actions of an episode; False, and a new episode, if that is over before the last of them."""
        for number in dict.fromkeys((0, episode)):  # some renderers fix their camera at their first picture
            self._episode = number - 1
            self.reset()
        for action in actions:
            _, _, terminated, truncated, _ = self.step(action)
            if terminated or truncated:
                self.reset()
                return False
        return True

    def _to_own(self, action: Any) -> Any:
        space = self.inner.action_space
        if isinstance(space, Discrete):
            return int(space.start + action)
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        share = (np.asarray(action, dtype=np.float64) + 1) / 2  # 0 at the lower bounds, 1 at the upper ones
        return np.clip(low + share * (high - low), low, high).astype(space.dtype)

    def _info(self, info: dict, reward: float) -> dict:
        return {**info, "raw_reward": reward, "life_lost": False}

    def _frame(self, observation: Any) -> np.ndarray:
        """The current picture as a frame uint8 [C, S, S]; a picture that is not square is squeezed."""
        with span("render"):
            self._picture = observation if self._observes_pictures else self._rendered()
        with span("resize"):
            picture = in_colour(self._picture) if self._facts.channels == 3 else in_grey(self._picture)
            size = (self._facts.image_size, self._facts.image_size)
            small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        return small.reshape(*size, self._facts.channels).transpose(2, 0, 1)

    def _rendered(self) -> np.ndarray:
        try:
            picture = self.inner.render()
        except NotImplementedError:
            picture = None
        shape: tuple[int, ...] = getattr(picture, "shape", ())
        require(
            len(shape) == 3 and shape[2] == 3 and picture.dtype == np.uint8,
            f"env={self._env} shows no pixels: its observations are {self.inner.observation_space}, and render() "
            "gives no uint8 [H, W, 3]; render with render_mode='rgb_array', or observe uint8 [H, W, 3] or [H, W, 1]",
        )
        return picture


def make_environment(config: Any, seed: int, episode: int, training: bool) -> OwnEnvironment:
    """The training environment of a run, or that of episode `episode` of an evaluation."""
    return OwnEnvironment(config.env, config.environment_facts(training), environment_seed(seed, episode, training))


def require_playable(config: Any) -> None:
    """Makes the environment of a configuration and takes a step. Raises ConfigError, with what to do, if that fails."""
    with closing(OwnEnvironment(config.env, config.environment_facts(training=True), seed=0)) as environment:
        environment.action_space.seed(0)
        try:
            environment.reset()
            environment.step(environment.action_space.sample())
        except ConfigError:
            raise
        except Exception as error:  # the user's code may raise anything
            raise ConfigError(f"env={config.env} fails in its first step: {error!r}") from error


def fitting_action_space(env: str, space: gymnasium.Space, facts: EnvironmentFacts) -> gymnasium.Space:
    """The agent's action space for an environment with the action space `space`. Raises ConfigError if none fits."""
    if facts.discrete:
        wanted = "Discrete"
        if isinstance(space, Discrete):
            return Discrete(int(space.n))
    else:
        wanted = "a Box of floats with one dimension and finite bounds"
        is_float = isinstance(space, Box) and np.issubdtype(space.dtype, np.floating)
        if is_float and len(space.shape) == 1 and space.is_bounded():
            return Box(-1.0, 1.0, space.shape, np.float32)
    raise ConfigError(f"env={env} has the action space {space}: here it must be {wanted}; {facts.elsewhere}")


def in_colour(picture: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 1 or 3] -> [H, W, 3]"""
    return np.ascontiguousarray(np.broadcast_to(picture, (*picture.shape[:2], 3)))


def in_grey(picture: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 1 or 3] -> [H, W]"""
    picture = np.ascontiguousarray(picture)
    return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) if picture.shape[2] == 3 else picture[..., 0]


def make_own(env: str) -> gymnasium.Env:
    """The environment that `env` names: package.module:callable, or a Gymnasium id. Raises ConfigError.

    Modules of the current folder are found too, behind the installed ones.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    make = find_callable(env)
    try:
        environment = make()
    except ConfigError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise ConfigError(f"env={env} cannot be made: {error!r}") from error
    kind = type(environment)
    require(
        isinstance(environment, gymnasium.Env),
        f"env={env} gives a {kind.__module__}.{kind.__qualname__}: it must give a gymnasium.Env",
    )
    for name in ("observation_space", "action_space"):
        space = getattr(environment, name, None)
        require(
            isinstance(space, gymnasium.Space),
            f"env={env}: {name} of {kind.__module__}.{kind.__qualname__} is {space}: give it a gymnasium.spaces space",
        )
    return environment


def find_callable(env: str) -> Callable[[], Any]:
    """The maker of the environment: the callable that `env` names, or Gymnasium's of its id. Raises ConfigError."""
    module_name, colon, name = env.rpartition(":")
    if not colon:
        advice = (
            "; an environment of your own is env=package.module:callable, an id that a package registers package:ID"
        )
        return partial(make_registered, env, f"no Gymnasium id {env}", gymnasium.registry, advice)
    module = find_module(env, module_name)
    if hasattr(module, name):
        make = getattr(module, name)
        require(callable(make), f"env={env}: {name} in {module_name} is a {type(make).__name__}, not a callable")
        return make
    own = [each for each, value in vars(module).items() if callable(value) and not each.startswith("_")]
    refusal = f"{module_name} has no callable {name} and registers no such Gymnasium id"
    return partial(make_registered, env, refusal, [*own, *gymnasium.registry], "")


def make_registered(env: str, refusal: str, names: Iterable[str], advice: str) -> gymnasium.Env:
    """Gymnasium's environment of an id. Raises ConfigError with the nearest of `names` if there is none."""
    try:
        try:
            return gymnasium.make(env, render_mode="rgb_array")
        except TypeError:  # its class takes no render_mode
            return gymnasium.make(env)
    except (gymnasium.error.UnregisteredEnv, gymnasium.error.DeprecatedEnv) as error:
        close = nearest(env.rpartition(":")[2], list(names))
        hint = f"; did you mean {close}?" if close else ""
        raise ConfigError(f"env={env}: {refusal}{hint or advice}") from error


def find_module(env: str, name: str) -> ModuleType:
    """The module `name`, imported. Raises ConfigError, with the nearest name, if there is none or it cannot be."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if not f"{name}.".startswith(f"{missing}."):  # it is there, and lacks another
            raise ConfigError(f"env={env}: {name} cannot be imported: {error}") from error
        parent, _, last = missing.rpartition(".")
        folders = getattr(sys.modules[parent], "__path__", []) if parent else None
        close = nearest(last, [each.name for each in pkgutil.iter_modules(folders)])
        hint = f"; did you mean {parent}{'.' * bool(parent)}{close}?" if close else ""
        raise ConfigError(f"env={env}: no module {missing} in this folder or among the installed ones{hint}") from error
    except Exception as error:  # the user's code may raise anything
        raise ConfigError(f"env={env}: {name} cannot be imported: {error!r}") from error
