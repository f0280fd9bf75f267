"""Replays g (critic, actor and temperature losses, each alone, and acting) of a folder of DMControl reference files."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dmcontrol import losses
from tests.golden.check import Arrays, Check, by_case, load, named, relative
from tests.golden.dmcontrol_weights import Reference, load_reference

OUTPUTS, LOG_PROBS, LOG_STDS, GRADIENTS = 2e-5, 2e-4, 1e-4, 1e-4


def replay_g(folder: Path) -> Iterator[Check]:
    """Targets, values, policies, losses and gradients; `entropy_logged` is a log value of another definition."""
    for path in sorted(folder.glob("g_*.npz")):
        arrays = load(path)
        for case, own in by_case(arrays, "critic/loss").items():
            reference = load_reference(folder, own)
            checks = [*critic_checks(path.name, own, reference)]
            reference.agent.networks.zero_grad()
            checks += [*actor_checks(path.name, own, reference), *acting_checks(path.name, own, reference)]
            yield from named(case, checks)


def critic_checks(file: str, arrays: Arrays, reference: Reference) -> Iterator[Check]:
    agent, batch = reference.agent, reference.batch
    q, target = agent.q(batch.obs, batch.action), agent.q_target(batch, batch.next_obs)
    with torch.no_grad():
        action, checks = policy_checks(file, arrays, reference, "policy_next", batch.next_obs, "noise_target")
        next_q = agent.target_q_heads(agent.target_encoder(batch.next_obs), action)
    yield from checks
    yield from pair_checks(file, arrays, "critic/q", q)
    yield from pair_checks(file, arrays, "critic/target_q", next_q)
    yield relative(file, "critic/target", column(target), arrays["critic/target"], OUTPUTS)
    loss = losses.critic_loss(q, target)
    yield relative(file, "critic/loss", loss.detach(), arrays["critic/loss"], OUTPUTS)
    loss.backward()
    yield from gradient_checks(file, arrays, reference, "critic/")


def actor_checks(file: str, arrays: Arrays, reference: Reference) -> Iterator[Check]:
    agent, batch = reference.agent, reference.batch
    with torch.no_grad():
        _, checks = policy_checks(file, arrays, reference, "policy_obs", batch.obs, "noise_actor")
    yield from checks
    q, log_prob = agent.q_of_policy(batch.obs)
    yield from pair_checks(file, arrays, "actor/q", q)
    temperature = agent.log_temperature.exp().detach()
    yield relative(file, "alpha/value_before", temperature, arrays["alpha/value_before"], OUTPUTS)
    loss = losses.actor_loss(q, log_prob, temperature)
    yield relative(file, "actor/loss", loss.detach(), arrays["actor/loss"], OUTPUTS)
    loss.backward()
    yield from gradient_checks(file, arrays, reference, "actor/")

    target_entropy = -agent.action_size
    yield relative(file, "alpha/target_entropy", target_entropy, arrays["alpha/target_entropy"], OUTPUTS)
    loss = losses.temperature_loss(agent.log_temperature, log_prob, target_entropy)
    yield relative(file, "alpha/loss", loss.detach(), arrays["alpha/loss"], OUTPUTS)
    loss.backward()
    gradient = agent.log_temperature.grad
    yield relative(file, "alpha/grad_log_alpha", gradient, arrays["alpha/grad_log_alpha"], GRADIENTS)
    agent.optimizers["temperature"].step()
    after = agent.log_temperature.detach()
    yield relative(file, "alpha/log_alpha_after_step", after, arrays["alpha/log_alpha_after_step"], 1e-6)


def acting_checks(file: str, arrays: Arrays, reference: Reference) -> Iterator[Check]:
    agent, batch = reference.agent, reference.batch
    with torch.no_grad():
        means, _ = agent.actor(agent.encoder.convolutions(batch.obs))
    for key in arrays:
        if match := re.match(r"act/deterministic_obs(\d+)", key):
            yield relative(file, key, means[int(match[1])].tanh(), arrays[key], OUTPUTS)
        elif match := re.match(r"act/sampled_from_seq(\d)_?(\d)_", key):
            frame = batch.frames[int(match[1]), int(match[2])].numpy()
            sampled = agent.act(frame, step=reference.config.loop.learning_starts, first=True)
            yield relative(file, key, sampled, arrays[key], OUTPUTS)


def policy_checks(
    file: str, arrays: Arrays, reference: Reference, prefix: str, pixels: Tensor, noise: str
) -> tuple[Tensor, list[Check]]:
    """The policy's actions and their checks."""
    agent, batch = reference.agent, reference.batch
    mean, log_std = agent.actor(agent.encoder.convolutions(pixels))
    action, log_prob = losses.squashed_sample(mean, log_std, batch.noise[noise], agent.config.log_prob_floor)
    outputs = {
        "tanh_mean": (mean.tanh(), OUTPUTS),
        "action": (action, OUTPUTS),
        "log_prob": (column(log_prob), LOG_PROBS),
        "log_std": (log_std, LOG_STDS),
    }
    return action, [
        relative(file, f"{prefix}/{name}", values, arrays[f"{prefix}/{name}"], tolerance)
        for name, (values, tolerance) in outputs.items()
    ]


def pair_checks(file: str, arrays: Arrays, prefix: str, q: Tensor) -> Iterator[Check]:
    for number, values in enumerate(q.detach(), start=1):
        yield relative(file, f"{prefix}{number}", column(values), arrays[f"{prefix}{number}"], OUTPUTS)


def gradient_checks(file: str, arrays: Arrays, reference: Reference, case: str) -> Iterator[Check]:
    """Norms one by one; sums as shares of the norms, because some cancel to zero."""
    prefix = f"{case}grad_norm/"
    names = [key.removeprefix(prefix) for key in arrays if key.startswith(prefix)]
    gradients = [reference.parameters[name].grad.double() for name in names]
    expected = np.array([(arrays[f"{case}grad_sum/{name}"], arrays[f"{prefix}{name}"]) for name in names])
    for name, gradient, norm in zip(names, gradients, expected[:, 1], strict=True):
        yield relative(file, f"{prefix}{name}", gradient.norm(), norm, GRADIENTS)
    scale = np.where(expected[:, 1] == 0, 1, expected[:, 1])
    sums = np.array([float(gradient.sum()) for gradient in gradients])
    yield relative(file, f"{case}grad_sum", sums / scale, expected[:, 0] / scale, GRADIENTS)


def column(values: Tensor) -> Tensor:
    return values.detach().unsqueeze(1)
