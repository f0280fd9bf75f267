"""SAC with an auxiliary, filled with the starting state of a set of reference files, and its batch.

A set is `NAME_state.npz`, `NAME_batch.npz`, `NAME_loss.npz` and `NAME_updates.npz`. Sizes come from the shapes of the
arrays, rates from `configs/`. Images are what the networks see.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor, nn

from auxiliaries.slot import Auxiliary, Metrics, Reads, Shared
from dmcontrol.agent import SACAgent
from dmcontrol.method import make_agent
from harness.recipe import Spaces
from recipes import COMMANDS
from tests.golden.check import Arrays, Check, exact, load, relative
from tests.golden.dmcontrol_h import norm_checks, weight_checks
from tests.golden.dmcontrol_weights import encoder_config, rl_layers

LOSSES, GRADIENTS, NORMS, WEIGHTS = 1e-5, 5e-5, 1e-5, 5e-5
METRICS = {
    "train_critic/loss": "critic_loss",
    "train_actor/loss": "actor_loss",
    "train_alpha/loss": "temperature_loss",
    "train_alpha/value": "temperature",
}
Layers = Callable[[Auxiliary], Iterator[tuple[str, nn.Module]]]  # an auxiliary's, by the reference's names


@dataclass
class Stored:
    """A reference batch in the place of a replay."""

    obs: Tensor  # uint8 [B, C, S, S]
    action: Tensor  # float32 [B, A]
    reward: Tensor  # float32 [B]
    next_obs: Tensor  # uint8 [B, C, S, S]
    bootstrap: Tensor  # float32 [B]
    frames: Tensor | None = None  # uint8 [T, N, C, S, S]
    actions: Tensor | None = None  # float32 [T, N, A]
    ended: Tensor | None = None  # bool [T, N]

    def require_transition(self) -> None:
        """There is one."""

    require_window = require_transition

    def sample(self, batch_size: int, generator: torch.Generator) -> "Stored":
        return self

    def windows(self, batch_size: int, generator: torch.Generator, reads: Reads) -> "Stored":
        return self


@dataclass
class Reference:
    agent: SACAgent
    batch: Stored
    arrays: Arrays  # of the batch
    parameters: dict[str, nn.Parameter]  # ours by the reference's names
    noise: dict[str, Tensor] = field(default_factory=dict)  # float32 [B, A], by the agent's purposes

    @property
    def shared(self) -> Shared:
        return Shared(view=self.batch.obs.float(), target_encoder=self.agent.target_encoder)


def load_set(folder: Path, name: str, auxiliary: str, layers: Layers, *overrides: str) -> Reference:
    """Our agent in the starting state of the set `name`, with recorded values in the place of its draws."""
    state, arrays = load(folder / f"{name}_state.npz"), load(folder / f"{name}_batch.npz")
    batch = stored(arrays)
    size, encoder = batch.obs.shape[-1], encoder_config(state, batch.obs.shape[-1])
    settings = [
        "task=finger_spin",
        f"auxiliary={auxiliary}",
        f"environment.image_size={size}",
        f"environment.frame_stack={batch.obs.shape[1] // 3}",
        f"agent.crop_size={size}",
        f"agent.encoder.filters={encoder.filters}",
        f"agent.encoder.strides={encoder.strides}".replace(" ", ""),
        f"agent.encoder.latent={encoder.latent}",
        f"agent.hidden={len(state['critic/q1/fc0/bias'])}",
    ]
    spaces = Spaces(Box(0, 255, batch.obs.shape[1:], np.uint8), Box(-1.0, 1.0, batch.action.shape[1:], np.float32))
    agent = make_agent(COMMANDS["dmcontrol"].resolve([*settings, *overrides]), spaces, torch.device("cpu"))
    modules = [*rl_layers(agent), *layers(agent.auxiliary)]
    parameters = {
        f"{layer}/{kind}" if kind else layer: parameter
        for layer, module in modules
        for kind, parameter in ([("", module)] if isinstance(module, Tensor) else module.named_parameters())
    }
    parameters["log_alpha"] = agent.log_temperature
    with torch.no_grad():
        for key, parameter in parameters.items():
            values = torch.from_numpy(state[key])
            assert values.shape == parameter.shape, f"{key}: {tuple(values.shape)}, ours {tuple(parameter.shape)}"
            parameter.copy_(values)
    reference = Reference(agent, batch, arrays, parameters)
    agent._cropped = lambda images, generator: images.float()
    agent._noise = lambda like, purpose: reference.noise[purpose]
    return reference


def stored(arrays: Arrays) -> Stored:
    """The transitions of a set, and its windows if it has some."""
    tensors = {name: torch.from_numpy(values) for name, values in arrays.items() if values.dtype.kind in "fui"}
    frames = tensors.get("frames")
    return Stored(
        obs=tensors["obs"],
        action=tensors["action"],
        reward=tensors["reward"].squeeze(1),
        next_obs=tensors["next_obs"],
        bootstrap=tensors["not_done"].squeeze(1),
        frames=frames,
        actions=tensors.get("actions"),
        ended=None if frames is None else torch.zeros(frames.shape[:2], dtype=torch.bool),
    )


def gradient_checks(file: str, reference: Reference, arrays: Arrays, prefix: str) -> Iterator[Check]:
    """Gradients that a loss left: which there are, some in full, and L2 norms and sums of all."""
    names = [str(name) for name in arrays[f"{prefix}grad_names"]]
    none = {str(name) for name in arrays[f"{prefix}grad_none"]}
    yield exact(file, "parameters", sorted(reference.parameters), sorted(names))
    ours = {name: parameter.grad for name, parameter in reference.parameters.items()}
    yield exact(file, "parameters without gradient", sorted(k for k, v in ours.items() if v is None), sorted(none))
    rows = {name: row for name, row in zip(names, arrays[f"{prefix}grad_sum_l2"], strict=True) if name not in none}
    for name, (_, norm) in rows.items():
        yield relative(file, f"L2 of grad {name}", ours[name].double().norm(), norm, GRADIENTS)
    # Sums as shares of the norms: some cancel to zero.
    shares = [
        (float(ours[name].double().sum()) / norm, total / norm) for name, (total, norm) in rows.items() if norm >= 1e-6
    ]
    yield relative(file, f"{prefix}sums of gradients", *map(np.array, zip(*shares, strict=True)), GRADIENTS)
    for key in (key for key in arrays if key.startswith(f"{prefix}grad/")):
        yield relative(file, key, ours[key.removeprefix(f"{prefix}grad/")], arrays[key], GRADIENTS)


def update_checks(
    file: str,
    reference: Reference,
    arrays: Arrays,
    losses: Mapping[str, str | Callable[[Metrics], Tensor]],
    draw: Callable[[int], None] = lambda update: None,
) -> Iterator[Check]:
    """Whole updates in a row: logged values, L2 norms and sums of all weights, and some weights in full.

    `losses` are our metrics by the reference's names, or functions of all metrics. `draw` puts an update's further
    recorded values in place.
    """
    agent, names = reference.agent, [str(name) for name in arrays["param_names"]]
    yield exact(file, "parameters", sorted(reference.parameters), sorted(names))
    yield from norm_checks(file, reference, names, arrays["sum_and_l2"][0], "before", WEIGHTS)
    for update, step in enumerate(arrays["steps"].tolist(), start=1):
        for purpose, name in (("noise_target", "target"), ("noise_actor", "actor")):
            key = f"noise_{name}_policy{update}"
            reference.noise[purpose] = torch.from_numpy(arrays[key]) if key in arrays else None
        draw(update)
        metrics = agent.update(reference.batch, step, "update")
        prefix = f"logged{update}/"
        logged = {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
        for key, value in logged.items():
            metric = (METRICS | losses)[key]
            ours = metric(metrics) if callable(metric) else metrics[metric]
            yield relative(file, f"{prefix}{key}", ours, value, WEIGHTS)
        yield exact(file, f"actor runs in update {update}", "actor_loss" in metrics, "train_actor/loss" in logged)
        yield from norm_checks(file, reference, names, arrays["sum_and_l2"][update], f"after update {update}", WEIGHTS)
        yield from weight_checks(file, reference, arrays, f"params_after_update{update}/", WEIGHTS)
