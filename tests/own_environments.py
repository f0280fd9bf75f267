"""Environments such as a user brings: a dot that should stay in the middle, told and shown in several ways."""

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

LEFT, RIGHT = 0, 1


class Dot(gymnasium.Env):
    """A dot on a line of unit length. It is pushed left or right, and drifts at random; an episode ends at the edge."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(self, render_mode: str | None = "rgb_array"):
        self.render_mode = render_mode
        self.observation_space = Box(0.0, 1.0, (1,), np.float32)
        self.action_space = Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.steps = self.np_random.uniform(0.3, 0.7), 0
        return self.observation(), {}

    def step(self, action):
        return self.push(0.02 if action == RIGHT else -0.02)

    def push(self, distance):
        self.place += distance + self.np_random.normal(scale=0.01)
        self.steps += 1
        outside = not 0 < self.place < 1
        return self.observation(), 1.5 - abs(self.place - 0.5), outside, self.steps >= 60, {}

    def observation(self):
        return np.array([self.place], dtype=np.float32)

    def render(self):
        return self.picture(30, 50)

    def picture(self, height, width):
        picture = np.zeros((height, width, 3), dtype=np.uint8)
        column = int(np.clip(self.place, 0, 0.999) * width)
        picture[:, max(column - 2, 0) : column + 3] = (250, 120, 10)
        return picture


class SeenDot(Dot):
    """Observed as a picture, in colour or grey; there is nothing to render. Success is a further column."""

    channels = 3

    def __init__(self):
        super().__init__(render_mode=None)
        self.observation_space = Box(0, 255, (32, 32, self.channels), np.uint8)

    def step(self, action):
        observation, reward, terminated, truncated, _ = super().step(action)
        return observation, reward, terminated, truncated, {"columns": {"success": float(reward > 1.4)}}

    def observation(self):
        return self.picture(32, 32)[..., : self.channels]

    def render(self):
        raise NotImplementedError


class GreyDot(SeenDot):
    channels = 1


class PulledDot(Dot):
    """The force is a number between bounds of its own."""

    def __init__(self, render_mode: str | None = "rgb_array"):
        super().__init__(render_mode)
        self.action_space = Box(np.float32([0.0]), np.float32([4.0]))

    def step(self, action):
        assert self.action_space.contains(action)
        return self.push(float(action[0] - 2) / 100)


class PulledSeenDot(PulledDot):
    """Observed as a picture. Success is a further column."""

    def __init__(self):
        super().__init__(render_mode=None)
        self.observation_space = Box(0, 255, (32, 32, 3), np.uint8)

    def step(self, action):
        observation, reward, terminated, truncated, _ = super().step(action)
        return observation, reward, terminated, truncated, {"columns": {"success": float(reward > 1.4)}}

    def observation(self):
        return self.picture(32, 32)

    def render(self):
        raise NotImplementedError


class CentredDot(Dot):
    """Seen by a camera that the first picture of an object fixes."""

    centre = None

    def picture(self, height, width):
        if self.centre is None:
            self.centre = int(self.place * width)
        return np.roll(super().picture(height, width), width // 2 - self.centre, axis=1)


class KeptDot(Dot):
    """Drifts with a generator that no seed reaches, and keeps its own state instead."""

    def __init__(self):
        super().__init__()
        self.drift = np.random.default_rng(5)

    def push(self, distance):
        return super().push(distance + self.drift.normal(scale=0.01))

    def state(self):
        generators = {name: getattr(self, name).bit_generator.state for name in ("np_random", "drift")}
        return {"place": float(self.place), "steps": self.steps, **generators}

    def load_state(self, state):
        super().reset(seed=0)
        self.place, self.steps = state["place"], state["steps"]
        for name in ("np_random", "drift"):
            getattr(self, name).bit_generator.state = state[name]


class RestlessDot(KeptDot):
    """Drifts with a generator that no seed reaches, and cannot be restored."""

    state = load_state = None


class ShortDot(PulledDot):
    """Episodes of three steps."""

    def step(self, action):
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, terminated, self.steps >= 3, info


class BlindDot(Dot):
    """There is nothing to see."""

    render = gymnasium.Env.render


class SpacelessDot(gymnasium.Env):
    """It says nothing of its actions."""

    observation_space = gymnasium.spaces.Discrete(2)


class UnboundedDot(PulledDot):
    def __init__(self):
        super().__init__()
        self.action_space = Box(-np.inf, np.inf, (1,), np.float32)


class OldDot(Dot):
    """Steps as Gym did before Gymnasium."""

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated or truncated, info


def not_an_environment() -> dict:
    return {}


def dot_of_size(size: int) -> Dot:
    return Dot()


A_NUMBER = 3

gymnasium.register("Dot-v3", entry_point="tests.own_environments:Dot")
gymnasium.register("SeenDot-v0", entry_point="tests.own_environments:SeenDot", max_episode_steps=40)
