"""Replays h to j of a folder of MWM reference files: scalars, optimisers, and actor and critic in imagination."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mwm.behaviour import Behaviour, lambda_returns, products_before, starts
from mwm.config import AdamConfig, ScheduleConfig
from mwm.dynamics import States
from mwm.optimizer import Optimizer
from mwm.policy import truncated_entropy, truncated_sample
from mwm.rewards import RewardScale, symexp, symlog
from mwm.schedule import Rounds
from tests.golden.check import Arrays, Check, exact, load, relative
from tests.golden.mwm_autoencoder import FORWARD, GRADIENT, gradient_checks
from tests.golden.mwm_dynamics import make_dynamics, tensors
from tests.golden.mwm_weights import action_draws, fill, latent_draws, make_section, read_sizes

UPDATE = 2e-6  # absolute, of weights
MIN_STD = 0.1


def replay_h(folder: Path) -> Iterator[Check]:
    """Logarithms of rewards, the truncated normal with both gradients, returns, and the scale of rewards."""
    for path in sorted(folder.glob("h_*.npz")):
        arrays, file = load(path), path.name
        (x,) = tensors(arrays, "x")
        yield relative(file, "symlog", symlog(x), arrays["symlog"], FORWARD)
        yield relative(file, "symexp_of_symlog", symexp(symlog(x)), arrays["symexp_of_symlog"], FORWARD)
        yield from policy_checks(file, arrays)
        reward, value, discount = tensors(arrays, "lr_reward", "lr_value", "lr_discount")
        weight = float(arrays["lr_lambda"])
        yield relative(file, "lr_target", lambda_returns(reward, value, discount, weight), arrays["lr_target"], FORWARD)
        constant = lambda_returns(reward, value, torch.full_like(discount, 0.99), weight)
        yield relative(file, "lr_target_constant099", constant, arrays["lr_target_constant099"], FORWARD)
        yield from scale_checks(file, arrays)
        yield from schedule_checks(file, arrays)


def policy_checks(file: str, arrays: Arrays) -> Iterator[Check]:
    mean_raw, std_raw = (raw.requires_grad_() for raw in tensors(arrays, "tn_mean_raw", "tn_std_raw"))
    mean, std = mean_raw.tanh(), MIN_STD + (1 - MIN_STD) * std_raw.sigmoid()
    yield relative(file, "tn_std", std.detach(), arrays["tn_std"], FORWARD)
    yield relative(file, "tn_mode", mean.detach(), arrays["tn_mode"], FORWARD)
    entropy = truncated_entropy(mean, std)
    yield relative(file, "tn_entropy", entropy.detach(), arrays["tn_entropy"], FORWARD)
    by_mean, by_std = torch.autograd.grad(entropy.sum(), (mean_raw, std_raw), retain_graph=True)
    yield relative(file, "tn_entropy_grad_mean_raw", by_mean, arrays["tn_entropy_grad_mean_raw"], GRADIENT)
    yield relative(file, "tn_entropy_grad_std_raw", by_std, arrays["tn_entropy_grad_std_raw"], GRADIENT)
    uniforms, weights = tensors(arrays, "tn_u", "tn_weights")
    action = truncated_sample(mean, std, uniforms, "released")
    yield relative(file, "tn_sample", action.detach(), arrays["tn_sample"], FORWARD)
    by_mean, by_std = torch.autograd.grad((action * weights).sum(), (mean_raw, std_raw))
    yield relative(file, "tn_grad_mean_raw", by_mean, arrays["tn_grad_mean_raw"], GRADIENT)
    yield relative(file, "tn_grad_std_raw", by_std, arrays["tn_grad_std_raw"], GRADIENT)


def schedule_checks(file: str, arrays: Arrays) -> Iterator[Check]:
    """Steps with updates from the first one on that may have them; the name says how often and from where."""
    for key in arrays:
        if match := re.fullmatch(r"every(\d+)(?:_from(\d+))?", key):
            every, start = (int(number or 1) for number in match.groups())
            schedule = Rounds(start, ScheduleConfig(pretraining=1, every=every), "first")
            ours = [bool(schedule.due(step)) for step in range(start, start + len(arrays[key]))]
            yield exact(file, key, ours, arrays[key])


def scale_checks(file: str, arrays: Arrays) -> Iterator[Check]:
    scale = RewardScale(0.99)
    for call, rewards in enumerate(torch.from_numpy(arrays["rn_inputs"])):
        yield relative(file, f"rn_outputs {call}", scale(rewards), arrays["rn_outputs"][call], FORWARD)
        yield relative(file, f"rn_magnitude {call}", scale.magnitude, arrays["rn_magnitude"][call], FORWARD)
    off = RewardScale(1.0)(torch.from_numpy(arrays["rn_inputs"][0]))
    yield relative(file, "rn_off_output", off, arrays["rn_off_output"], FORWARD)


def replay_i(folder: Path) -> Iterator[Check]:
    """Steps of given gradients, some above the clip, with warm-up and both kinds of decay."""
    for path in sorted(folder.glob("i_*.npz")):
        arrays, file = load(path), path.name
        kernel, bias = (nn.Parameter(weight) for weight in tensors(arrays, "kernel_0", "bias_0"))
        config = AdamConfig(
            learning_rate=float(arrays["lr"]),
            warmup_updates=int(arrays["warmup"]),
            beta1=0.9,
            beta2=0.999,
            eps=float(arrays["eps"]),
            clip_norm=float(arrays["clip"]),
            weight_decay=float(arrays["wd"]),
            decayed="matrices" if "wd_pattern" in arrays else "all",
        )
        optimizer = Optimizer([kernel, bias], config, "tensorflow")
        for step in range(1, 1 + sum(key.startswith("norm_") for key in arrays)):
            kernel.grad, bias.grad = tensors(arrays, f"grad_kernel_{step}", f"grad_bias_{step}")
            norm = optimizer.step_gradients()
            yield relative(file, f"norm_{step}", norm, arrays[f"norm_{step}"], FORWARD)
            for name, weight in (("kernel", kernel), ("bias", bias)):
                yield weight_check(file, f"{name}_{step}", weight.detach(), arrays[f"{name}_{step}"])


def weight_check(file: str, quantity: str, weight, expected) -> Check:
    """Largest absolute difference of a weight after updates."""
    check = relative(file, quantity, weight, expected, UPDATE)
    return replace(check, error=check.error * (np.abs(expected).max() or 1.0))


def replay_j(folder: Path) -> Iterator[Check]:
    """Imagination from posterior states, returns, both losses and their gradients."""
    sizes = read_sizes(folder)
    for path in sorted(folder.glob("j_*.npz")):
        arrays, file = load(path), path.name
        dynamics = make_dynamics(sizes, arrays, file)
        behaviour = make_behaviour(sizes, arrays, momentum=1.0 if "dmcontrol" in file else 0.99)
        stoch, deter, terminal = tensors(arrays, "start_stoch", "start_deter", "is_terminal")
        draws = latent_draws(arrays["draws_state"], sizes["rssm"]["classes"])
        start = starts(States(stoch.flatten(2), deter))
        imagined = behaviour.imagine(dynamics, start, draws, action_draws(arrays["draws_action_u"]))
        actor_loss, critic_loss, metrics = behaviour.losses(dynamics, imagined, terminal.flatten())
        yield from imagined_checks(file, arrays, dynamics, behaviour, imagined, terminal.flatten())
        results = {"actor_loss": actor_loss, "critic_loss": critic_loss, "actor_entropy": metrics["policy_entropy"]}
        for name, value in results.items():
            yield relative(file, name, value.detach(), arrays[name], FORWARD)
        yield relative(file, "magnitude", behaviour.scale.magnitude, arrays["magnitude"], FORWARD)
        actor_loss.backward(inputs=list(behaviour.actor.parameters()))
        critic_loss.backward(inputs=list(behaviour.critic.parameters()))
        for name in ("actor", "critic"):
            yield from gradient_checks(file, getattr(behaviour, name), arrays, name)


@torch.no_grad()
def imagined_checks(file, arrays: Arrays, dynamics, behaviour, imagined, terminal) -> Iterator[Check]:
    """What lies between the imagined states and the losses."""
    feature = imagined.feature
    raw = symexp(dynamics.imagined_reward(feature))
    discount = behaviour.discounts(dynamics, feature, terminal)
    reward = raw / (behaviour.scale.magnitude.float() + 1e-8)
    value = behaviour.target(feature).squeeze(-1)
    size = arrays["stoch"][0, 0].size
    results = {
        "action": imagined.action,
        "feature": feature,
        "stoch": feature[..., :size].view(arrays["stoch"].shape),
        "deter": feature[..., size:],
        "reward_raw": raw,
        "reward": reward,
        "discount": discount,
        "weight": products_before(discount),
        "value_target": value,
        "target": lambda_returns(reward, value, discount, behaviour.config.lambda_return),
    }
    for name, result in results.items():
        yield relative(file, name, result, arrays[name], FORWARD)


def make_behaviour(sizes: dict, arrays: Arrays, mark: str = "w", momentum: float = 0.99, every: int = 100) -> Behaviour:
    section = make_section(sizes)
    settings = replace(section.behaviour, reward_momentum=momentum, target_every=every)
    behaviour = Behaviour(replace(section, behaviour=settings), sizes["actions"])
    for name in ("actor", "critic", "target"):
        fill(getattr(behaviour, name), arrays, name, mark)
    return behaviour
