"""A task that needs memory and reports success. No torch here: worker processes import this module."""

import gymnasium
import numpy as np
from pydantic.dataclasses import dataclass

from harness.config import STRICT, EvaluationConfig, LoggerConfig, LoopConfig, RunConfig
from harness.seeding import derive_seed


@dataclass(config=STRICT, kw_only=True)
class Config(RunConfig):
    agent_steps: int
    eval_every: int

    augmentation = None
    observation_shape = (1, 2, 2)


def make_config(run_dir, order="released", **evaluation) -> Config:
    settings = {"episodes": 3, "environments": 2, "workers": 0, "background": False, "timeout_seconds": 60}
    return Config(
        suite="cue", method="recurrent", task="cue", env="", seed=3, auxiliary="none", fidelity="ours", preset="tiny",
        experiment="none-ours-tiny", run_dir=str(run_dir), device="cpu", threads=1, precision="fp32",
        deterministic=False, capture="auto", fused="auto", compile=False, checkpoint_every=15, log_every=10,
        video=False, keep_weights=False, agent_steps=70, eval_every=35,
        loop=LoopConfig(order=order, learning_starts=20),
        logger=LoggerConfig(
            tensorboard=False, wandb="off", project="p", entity="", group="", tags=[], send_every_seconds=1,
            start_spread_seconds=0, start_timeout_seconds=1, finish_timeout_seconds=1,
        ),
        evaluation=EvaluationConfig(**settings | evaluation),
    )  # fmt: skip


class Cue(gymnasium.Env):
    """The first picture of an episode shows a cue. An episode succeeds if its last action has the cue's sign."""

    def __init__(self, seed: int):
        self.observation_space = gymnasium.spaces.Box(0, 255, (1, 2, 2), np.uint8)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self._generator = np.random.default_rng(seed)
        self._sign = self._left = 0

    def reset(self, *, seed=None, options=None):
        self._sign = int(self._generator.choice((-1, 1)))
        self._left = int(self._generator.integers(3, 9))
        return np.full((1, 2, 2), 128 + 100 * self._sign, np.uint8), {}

    def step(self, action):
        self._left -= 1
        reward = float(action[0]) * self._sign
        observation = np.full((1, 2, 2), self._left, np.uint8)
        info = {"raw_reward": reward, "columns": {"success": reward > 0}}
        return observation, reward, False, self._left == 0, info

    def state(self):
        return {"generator": self._generator.bit_generator.state, "sign": self._sign, "left": self._left}

    def load_state(self, state):
        self._generator.bit_generator.state = state["generator"]
        self._sign, self._left = state["sign"], state["left"]


def make_environment(config, seed, episode, training):
    return Cue(derive_seed(seed, "environment" if training else "evaluation_environment", episode))
