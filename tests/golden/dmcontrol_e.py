"""Replays e (the MLR loss with its gradients) of a folder of DMControl reference files, on the agent's own objective.

`T` time, `N` windows, `D` latent, `P` projection.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from dmcontrol.losses import learning_rate_factor
from harness.optimizers import clip_in_step
from tests.golden.atari_d import plain_tokens
from tests.golden.check import Check, load, relative
from tests.golden.dmcontrol_g import gradient_checks
from tests.golden.dmcontrol_weights import Arrays, Reference, load_reference

OUTPUTS, GRADIENTS = 2e-5, 1e-4
FACTOR = "factor_on_predictor_fc1_weight_and_bias"


def replay_e(folder: Path) -> Iterator[Check]:
    """Whole cases with intermediates and gradients, and the losses of other masks."""
    for path in sorted(folder.glob("e_*.npz")):
        arrays = load(path)
        for case in sorted({key.split("/")[0] for key in arrays if key.endswith("/grad_norm_total")}):
            yield from case_checks(path.name, case, arrays, load_reference(folder))
        reference = load_reference(folder)
        for name, hidden in (("mask_none", False), ("mask_all", True)):
            if f"{name}/loss" not in arrays:
                continue
            reference.batch.hidden.fill_(hidden)
            with torch.no_grad():
                loss = reference.agent.auxiliary.loss(reference.batch)[0].mean()
            yield relative(path.name, f"{name}/loss", loss, arrays[f"{name}/loss"], OUTPUTS)


def case_checks(file: str, case: str, arrays: Arrays, reference: Reference) -> Iterator[Check]:
    agent, mlr = reference.agent, reference.agent.auxiliary
    if f"{case}/{FACTOR}" in arrays:
        with torch.no_grad():
            for parameter in mlr.owned["predictor"][-1].parameters():
                parameter.mul_(float(arrays[f"{case}/{FACTOR}"]))
    trace = Trace(reference)
    loss = mlr.loss(reference.batch)[0].mean()
    for key in (key for key in (f"{case}/loss", f"{case}/loss_float64_network") if key in arrays):
        yield relative(file, key, loss.detach(), arrays[key], OUTPUTS)
    for name, values in trace.intermediates().items():
        yield relative(file, f"{case}/{name}", values, arrays[f"{case}/{name}"], OUTPUTS)
    loss.backward()
    yield from gradient_checks(file, arrays, reference, case)
    yield from whole_gradient_checks(file, case, arrays, reference)
    norm = clip_in_step(agent.optimizers["auxiliary"], agent.config.mlr_agent.clip_norm)
    yield relative(file, f"{case}/grad_norm_total", norm, arrays[f"{case}/grad_norm_total"], GRADIENTS)
    config = agent.config.mlr_agent
    rate = config.learning_rate * learning_rate_factor(torch.tensor(1), config.warmup_updates, config.warmup_start)
    yield relative(file, f"{case}/lr_after_step", rate, arrays[f"{case}/lr_after_step"], OUTPUTS)


def whole_gradient_checks(file: str, case: str, arrays: Arrays, reference: Reference) -> Iterator[Check]:
    """The gradients that are stored in full, and the norms of groups."""
    for key in (key for key in arrays if key.startswith(f"{case}/grad/")):
        gradient = reference.parameters[key.removeprefix(f"{case}/grad/")].grad
        yield relative(file, key, gradient, arrays[key], GRADIENTS)
    prefix = f"{case}/grad_norm_group/"
    for key in (key for key in arrays if key.startswith(prefix)):
        group = key.removeprefix(prefix) + "/"
        gradients = [parameter.grad for name, parameter in reference.parameters.items() if name.startswith(group)]
        norm = sum(float(gradient.double().square().sum()) for gradient in gradients) ** 0.5
        yield relative(file, key, norm, arrays[key], GRADIENTS)


class Trace:
    """Values that pass through the objective's modules in the next call of its loss."""

    def __init__(self, reference: Reference):
        mlr = reference.agent.auxiliary
        self.decoder = mlr.owned["decoder"]
        self.inputs: dict[str, tuple] = {}
        self.outputs: dict[str, Tensor] = {}
        modules = {
            "masked_latents": mlr.encoder,
            "action_embeddings": mlr.owned["action_embedding"],
            "decoded": self.decoder,
            "target_latents": mlr.targets["encoder"],
            "projected": mlr.projector,
            "predicted": mlr.owned["predictor"],
            "target_projected": mlr.targets["projector"],
        }
        for name, module in modules.items():
            module.register_forward_hook(lambda module, inputs, output, name=name: self._note(name, inputs, output))

    def _note(self, name: str, inputs: tuple, output: Tensor) -> None:
        self.inputs.setdefault(name, inputs)
        self.outputs.setdefault(name, output.detach())

    def intermediates(self) -> dict[str, Tensor]:
        """Latents and projections [T * N, D or P], tokens [N, 2T, D] in the reference's order."""
        outputs = self.outputs | {"action_embeddings": self.outputs["action_embeddings"].transpose(0, 1)}  # [T, N, D]
        values = {name: output.reshape(-1, output.shape[-1]) for name, output in outputs.items() if name != "decoded"}
        tokens_in, *blocks = plain_tokens(self.decoder, *self.inputs["decoded"])
        values["tokens_in"] = interleaved(tokens_in)
        for index, tokens in enumerate(blocks):
            values[f"tokens_after_block{index}"] = interleaved(tokens)
        return values


def interleaved(tokens: Tensor) -> Tensor:
    """States, then actions [N, 2T, D] -> state, action, state, action, ..."""
    return torch.stack(tokens.chunk(2, dim=1), dim=2).flatten(1, 2)
