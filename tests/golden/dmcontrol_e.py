"""Replays e (the MLR loss with its gradients) of a folder of DMControl reference files, on the agent's own objective.

`T` time, `N` windows, `D` latent, `P` projection.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from auxiliaries.slot import Shared, whole_loss
from dmcontrol.losses import learning_rate_factor
from harness.optimizers import clip_in_step
from tests.golden.atari_d import plain_tokens
from tests.golden.check import Arrays, Check, by_case, load, named, relative
from tests.golden.dmcontrol_g import gradient_checks
from tests.golden.dmcontrol_weights import Reference, load_reference

OUTPUTS, GRADIENTS = 2e-5, 1e-4
MASKS = {"mask_none/": False, "mask_all/": True}
FACTOR = "factor_on_predictor_fc1_weight_and_bias"


def replay_e(folder: Path) -> Iterator[Check]:
    """Whole cases with intermediates and gradients, and the losses of other masks."""
    for path in sorted(folder.glob("e_*.npz")):
        for case, own in by_case(load(path), "loss").items():
            checks = whole_case if "grad_norm_total" in own else loss_alone
            yield from named(case, checks(path.name, case, own, load_reference(folder, own)))


def whole_case(file: str, case: str, arrays: Arrays, reference: Reference) -> Iterator[Check]:
    agent, config = reference.agent, reference.config.aux_optimizer
    if FACTOR in arrays:
        with torch.no_grad():
            for parameter in agent.auxiliary.objective.owned["predictor"][-1].parameters():
                parameter.mul_(float(arrays[FACTOR]))
    trace = Trace(reference)
    loss = reconstruct(reference).mean()
    yield from value_checks(file, arrays, loss.detach(), trace)
    loss.backward()
    yield from gradient_checks(file, arrays, reference, "")
    yield from whole_gradient_checks(file, arrays, reference)
    norm = clip_in_step(agent.optimizers["auxiliary"], config.clip_norm)
    yield relative(file, "grad_norm_total", norm, arrays["grad_norm_total"], GRADIENTS)
    if "lr_after_step" in arrays:
        rate = config.learning_rate * learning_rate_factor(torch.tensor(1), config.warmup_updates, config.warmup_start)
        yield relative(file, "lr_after_step", rate, arrays["lr_after_step"], OUTPUTS)


def loss_alone(file: str, case: str, arrays: Arrays, reference: Reference) -> Iterator[Check]:
    """Values without gradients; the cases `mask_none` and `mask_all` have masks that their names tell."""
    if case in MASKS:
        reference.batch.hidden.fill_(MASKS[case])
    trace = Trace(reference)
    with torch.no_grad():
        loss = reconstruct(reference).mean()
    yield from value_checks(file, arrays, loss, trace)


def value_checks(file: str, arrays: Arrays, loss: Tensor, trace: "Trace") -> Iterator[Check]:
    values = {"loss": loss, "loss_float64_network": loss} | trace.intermediates()
    for name in [name for name in values if name in arrays]:
        yield relative(file, name, values[name], arrays[name], OUTPUTS)


def reconstruct(reference: Reference) -> Tensor:
    """The loss [T, N] of the reference's windows, with its graph."""
    return whole_loss(reference.agent.auxiliary, reference.batch, Shared())[0]


def whole_gradient_checks(file: str, arrays: Arrays, reference: Reference) -> Iterator[Check]:
    """The gradients that are stored in full, and the norms of groups."""
    for key in (key for key in arrays if key.startswith("grad/")):
        gradient = reference.parameters[key.removeprefix("grad/")].grad
        yield relative(file, key, gradient, arrays[key], GRADIENTS)
    for key in (key for key in arrays if key.startswith("grad_norm_group/")):
        group = key.removeprefix("grad_norm_group/") + "/"
        gradients = [parameter.grad for name, parameter in reference.parameters.items() if name.startswith(group)]
        norm = sum(float(gradient.double().square().sum()) for gradient in gradients) ** 0.5
        yield relative(file, key, norm, arrays[key], GRADIENTS)


class Trace:
    """Values that pass through the objective's modules in the next call of its loss."""

    def __init__(self, reference: Reference):
        mlr = reference.agent.auxiliary.objective
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
