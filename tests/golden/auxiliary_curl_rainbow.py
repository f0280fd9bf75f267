"""CURL's head, contrast and momentum copies in three updates of its released Atari agent, Data-efficient Rainbow (DER).

DER is built here from the project's noisy dueling head and value distributions; no agent of the project is one (C6).
"""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn

from atari import losses
from atari.networks import DuelingHead, signed_sqrt
from auxiliaries.config import CURLConfig
from auxiliaries.curl import CURL
from auxiliaries.slot import Shared
from mlr.momentum import frozen_copy
from tests.golden.atari_weights import NOISY_PARAMETERS, sum_l2
from tests.golden.check import Arrays, Check, by_case, load, named, relative, setting

LOSSES, GRADIENTS, NORMS, WEIGHTS = 1e-5, 5e-5, 1e-5, 5e-5
# Of logits, their loss and the contrast's gradients. The first layers' weights are all positive, so that their sums
# cancel in the LayerNorm: computed in float64, the reference's own logits are off by 2.9e-5, ours by 1.8e-5.
CONTRAST = 1e-4
FIRST_NORM, LATER_NORMS = 5e-5, 5e-4  # the first has the contrast's gradients: 2.2e-5 on an Intel Xeon with AMX
STRIDE, CLIP, RATE, EPS, TAU, TEMPERATURE = 5, 10.0, 1e-4, 1.5e-4, 1e-3, 0.1
V_MAX, DISCOUNT = 10.0, 0.99
# In the order of the head's noise.
HEAD = {"fc_h_a": "advantage_hidden", "fc_z_a": "advantage_out", "fc_h_v": "value_hidden", "fc_z_v": "value_out"}
TRANSPOSED = ("contrast.w_h", "contrast.w_c")  # x @ w
ALL = slice(None)


def replay_curl_rainbow(folder: Path) -> Iterator[Check]:
    weights, path = load(folder / "curl_rainbow_weights.npz"), folder / "curl_rainbow_updates.npz"
    for case, arrays in by_case(load(path), "contrastive_loss").items():
        coefficient = float(case.removeprefix("coefficient").rstrip("."))
        yield from named(f"{case.rstrip('.')} ", update_checks(path.name, DER(weights, coefficient), arrays))


class DER:
    """The released agent's learning step around our auxiliary."""

    def __init__(self, weights: Arrays, coefficient: float):
        self.coefficient = coefficient
        hidden, latent = weights["online.head.fc_h_v.w_mu"].shape
        atoms = len(weights["online.head.fc_z_v.b_mu"])
        sizes = SimpleNamespace(hidden=hidden, atoms=atoms, noisy=True, noisy_sigma0=0.1)
        self.support = losses.support(-V_MAX, V_MAX, atoms, torch.device("cpu"))
        self.discount = DISCOUNT ** int(setting(weights, "n_step"))
        self.encoder = encoder(weights)
        self.head = DuelingHead(latent, len(weights["online.head.fc_z_a.b_mu"]) // atoms, sizes)
        self.target_encoder, self.target_head = frozen_copy(self.encoder), frozen_copy(self.head)
        self.auxiliary = auxiliary(weights, self.encoder, latent)
        self.parameters = dict(self.named_parameters())
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                values = torch.from_numpy(weights[name].astype(np.float32))
                parameter.copy_(values.T if name.endswith(TRANSPOSED) else values)
        self.trained = [value for name, value in self.parameters.items() if name.startswith("online.")]
        self.optimizer = torch.optim.Adam(self.trained, lr=RATE, eps=EPS)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters by the reference's names. Nothing reads the momentum copies of head and W, which are not there."""
        owned, targets = self.auxiliary.owned, self.auxiliary.targets
        encoders = {"online": self.encoder, "momentum": targets["encoder"], "target": self.target_encoder}
        for network, module in encoders.items():
            for number, convolution in enumerate((module[0], module[2]), start=1):
                yield f"{network}.conv{number}.w", convolution.weight
                yield f"{network}.conv{number}.b", convolution.bias
        for network, head in (("online", self.head), ("target", self.target_head)):
            for theirs, ours in HEAD.items():
                for short, path in NOISY_PARAMETERS.items():
                    yield f"{network}.head.{theirs}.{short}", head.get_submodule(ours).get_parameter(path)
        for network, head in (("online", owned["head"]), ("momentum", targets["head"])):
            for letter, layer in (("h", head.hidden), ("c", head.out)):
                yield f"{network}.contrast.w_{letter}", layer.weight
                yield f"{network}.contrast.b_{letter}", layer.bias
        yield "online.contrast.w", owned["similarity"].weight

    def learn(self, arrays: Arrays, update: int) -> SimpleNamespace:
        """One update: value distributions, contrast, one clip over everything, momentum copies."""
        online, target = (noise(arrays, f"{network}_noise{update}") for network in ("online", "target"))
        obs, next_obs, anchor, key = (
            pixels(arrays[name]) for name in ("states", "next_states", f"anchor_view{update}", f"key_view{update}")
        )
        action, weights = torch.from_numpy(arrays["actions"]), torch.from_numpy(arrays["weights"])
        log_probs = losses.of_action(self.head(self.encoder(obs), online).log_softmax(-1), action)
        with torch.no_grad():
            values = losses.expected_value(self.head(self.encoder(next_obs), online).softmax(-1), self.support)
            probs = self.target_head(self.target_encoder(next_obs), target).softmax(-1)
            chosen = losses.of_action(probs, values.argmax(-1))
            done = torch.from_numpy(arrays["nonterminal"][:, 0] == 0)
            returns = torch.from_numpy(arrays["returns"])
            projected = losses.project_distribution(chosen, returns, done, self.discount, self.support)
        entropy = losses.categorical_loss(log_probs, projected)
        shared = Shared(latent=self.encoder(anchor))
        anchors = self.auxiliary.embed(None, shared, key, ALL)
        keys = self.auxiliary.embed_targets(None, shared, key, ALL)
        contrast = self.auxiliary.compare(anchors, keys)["loss"].mean()
        # C1: every priority holds the loss of the whole batch.
        priorities = entropy + self.coefficient * contrast
        self.optimizer.zero_grad()
        (weights * priorities).mean().backward()
        norm = nn.utils.clip_grad_norm_(self.trained, CLIP)
        gradients = {name: sum_l2(value.grad) for name, value in self.parameters.items() if value.grad is not None}
        with torch.no_grad():
            products = self.auxiliary.owned["similarity"](anchors, keys)
        self.optimizer.step()
        self.auxiliary.update_targets()
        scaled = TEMPERATURE * (products - products.amax(1, keepdim=True))
        return SimpleNamespace(
            logits=scaled, contrast=contrast.detach(), priorities=priorities.detach(), norm=norm, gradients=gradients
        )


def encoder(weights: Arrays) -> nn.Sequential:
    shapes = [weights[f"online.conv{number}.w"].shape for number in (1, 2)]
    layers = [nn.Conv2d(inputs, outputs, kernel, STRIDE) for outputs, inputs, kernel, _ in shapes]
    return nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), nn.Flatten())


def auxiliary(weights: Arrays, encoder: nn.Module, latent: int) -> CURL:
    hidden, width = weights["online.contrast.w_c"].shape
    config = CURLConfig(weight=1.0, weight_by_task={}, temperature=TEMPERATURE, hidden=hidden, width=width, tau=TAU)
    host = SimpleNamespace(
        facts=SimpleNamespace(latent_dim=latent),
        encoder=encoder,
        own_step=False,
        autocast=nullcontext,
        generators=lambda *names: None,
    )
    return CURL(config, host)


def noise(arrays: Arrays, draw: str) -> Tensor:
    """Factors [noise_size] of a recorded draw."""
    raw = [arrays[f"{draw}.{layer}.raw_{side}"] for layer in HEAD for side in ("in", "out")]
    return signed_sqrt(torch.from_numpy(np.concatenate(raw)))


def pixels(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).float() / 255


def update_checks(file: str, agent: DER, arrays: Arrays) -> Iterator[Check]:
    names = [str(name) for name in arrays["param_names"]]
    rows = [index for index, name in enumerate(names) if name in agent.parameters]
    names, tables = [names[index] for index in rows], arrays["param_sum_l2"][:, rows]
    for update in range(1, len(tables)):
        found = agent.learn(arrays, update)
        number = update - 1
        yield relative(file, f"logits {update}", found.logits, arrays["logits_scaled"][number], CONTRAST)
        yield relative(file, f"contrast {update}", found.contrast, arrays["contrastive_loss"][number], CONTRAST)
        expected = arrays["priorities_before_exponent"][number]
        yield relative(file, f"priorities {update}", found.priorities, expected, CONTRAST)
        tolerance = FIRST_NORM if update == 1 else LATER_NORMS
        yield relative(file, f"norm {update}", found.norm, arrays["grad_norm"][number], tolerance)
        if update == 1:
            yield from gradient_checks(file, found.gradients, arrays)
        norms = [sum_l2(agent.parameters[name])[1] for name in names]
        yield relative(file, f"L2 of weights after {update}", norms, tables[update, :, 1], NORMS)
    for name in (name for name in arrays if name.endswith("_after")):
        path = name.removesuffix("_after")
        ours = agent.parameters[path if path in agent.parameters else f"online.{path}"]
        yield relative(file, name, ours.detach()[: len(arrays[name])], arrays[name], WEIGHTS)  # of W, its first rows


def gradient_checks(file: str, gradients: dict[str, tuple[float, float]], arrays: Arrays) -> Iterator[Check]:
    trained = [str(name) for name in arrays["param_names"] if str(name).startswith("online.")]
    for name, (_, norm) in zip(trained, arrays["grad_after_clip_sum_l2"], strict=True):
        tolerance = CONTRAST if ".contrast." in name else GRADIENTS
        yield relative(file, f"L2 of the gradient of {name}", gradients[name][1], norm, tolerance)
