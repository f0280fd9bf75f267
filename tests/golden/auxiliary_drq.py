"""DrQ's critic against its reference file: two views of each observation, given values and policies for networks."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from dmcontrol import losses
from dmcontrol.agent import SACAgent
from dmcontrol.method import make_agent
from dmcontrol.replay import TransitionBatch
from harness.recipe import Spaces
from recipes import COMMANDS
from tests.golden.check import Arrays, Check, load, relative

OUTPUTS, GRADIENTS = 1e-5, 5e-5
OBS, NEXT = ("obs", "obs_aug"), ("next_obs", "next_obs_aug")


def replay_drq(folder: Path) -> Iterator[Check]:
    for path in sorted(folder.glob("drq_*.npz")):
        arrays = load(path)
        values = [pair(arrays, f"critic/{name}/q").requires_grad_() for name in OBS]
        agent, batch = stub(arrays, values), transitions(arrays)
        for name in NEXT:
            mean, log_std, noise = (torch.from_numpy(arrays[f"{name}/{part}"]) for part in ("mean", "log_std", "noise"))
            action, log_prob = losses.squashed_sample(mean, log_std, noise, agent.config.log_prob_floor)
            yield relative(path.name, f"{name}/action", action, arrays[f"{name}/action"], OUTPUTS)
            yield relative(path.name, f"{name}/log_prob", log_prob[:, None], arrays[f"{name}/log_prob"], OUTPUTS)
        views = [torch.full((len(batch.action),), number) for number in range(2)]
        metrics = agent._update_critic(batch, views, views)
        yield relative(path.name, "loss", metrics["critic_loss"], arrays["loss"], OUTPUTS)
        for name, q in zip(OBS, values, strict=True):
            for number, gradient in enumerate(q.grad, start=1):
                key = f"grad/critic/{name}/q{number}"
                yield relative(path.name, key, gradient[:, None], arrays[key], GRADIENTS)


def stub(arrays: Arrays, values: list[Tensor]) -> SACAgent:
    """Our agent with recorded outputs in the place of its networks. Pixels of a view are its number, once a sample."""
    actions = arrays["next_obs/action"].shape[1]
    settings = ["task=finger_spin", "preset=tiny", "+original=drq", f"agent.discount={float(arrays['discount'])}"]
    config = COMMANDS["dmcontrol"].resolve([*settings, f"agent.initial_temperature={float(arrays['temperature'])}"])
    spaces = Spaces(Box(0, 255, config.observation_shape, np.uint8), Box(-1.0, 1.0, (actions,), np.float32))
    agent = make_agent(config, spaces, torch.device("cpu"))
    noises = iter([torch.from_numpy(arrays[f"{name}/noise"]) for name in NEXT])

    def policy(pixels: Tensor) -> list[Tensor]:
        return [torch.from_numpy(arrays[f"{NEXT[pixels[0]]}/{part}"]) for part in ("mean", "log_std")]

    agent._encode = lambda network, pixels: pixels
    agent._noise = lambda like, purpose: next(noises)
    agent.actor = policy
    agent.target_q_heads = lambda pixels, action: pair(arrays, f"critic_target/{NEXT[pixels[0]]}/q")
    agent.q = lambda pixels, action: values[pixels[0]]
    return agent


def transitions(arrays: Arrays) -> TransitionBatch:
    return TransitionBatch(
        obs=torch.empty(0),
        action=torch.from_numpy(arrays["next_obs/action"]),
        reward=torch.from_numpy(arrays["reward"]).squeeze(1),
        next_obs=torch.empty(0),
        bootstrap=torch.from_numpy(arrays["not_done"]).squeeze(1),
    )


def pair(arrays: Arrays, prefix: str) -> Tensor:
    """Values [2, B] of both heads."""
    return torch.from_numpy(np.stack([arrays[f"{prefix}{number}"][:, 0] for number in (1, 2)]))
