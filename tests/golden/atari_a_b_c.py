"""Replays a (encoder), b (head and projection) and c (categorical loss) of a folder of reference files."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from atari.losses import (
    categorical_kl,
    categorical_loss,
    expected_value,
    of_action,
    project_distribution,
    support,
)
from atari.networks import renormalize, scale_gradient
from tests.golden.atari_weights import (
    DISCOUNT,
    KL_CEILING,
    KL_FLOOR,
    V_MAX,
    V_MIN,
    ReferenceModel,
    load_model,
    sum_l2,
)
from tests.golden.check import Arrays, Check, by_case, exact, load, named, relative, setting

TOLERANCE, SUM_TOLERANCE = 1e-5, 2e-5
CPU = torch.device("cpu")
CHOOSERS = {"double": "online_probs_next", "single": "target_probs"}  # whose values choose the next action


def replay_a(folder: Path) -> Iterator[Check]:
    """Maps before and after renormalisation, blank and undivided input, gradients, the guarded constant map."""
    for path in sorted(folder.glob("a_*.npz")):
        arrays = load(path)
        for case, own in by_case(arrays, "conv", "renorm").items():
            yield from named(case, encoder_checks(path.name, own, load_model(path)))


def replay_b(folder: Path) -> Iterator[Check]:
    """Logits with and without noise, acting values, the projection, and both gradients into the features."""
    for path in sorted(folder.glob("b_*.npz")):
        arrays = load(path)
        for case, own in by_case(arrays, "logits_noise").items():
            model = load_model(path)
            checks = (
                *noisy_head_checks(path.name, own, model),
                *mean_head_checks(path.name, own, model),
                *projection_checks(path.name, own, model),
            )
            yield from named(case, checks)


def replay_c(folder: Path) -> Iterator[Check]:
    """Loss, priority and gradient of the categorical loss, with the double and the single choice of the next action."""
    for path in sorted(folder.glob("c_*.npz")):
        arrays = load(path)
        for case, own in by_case(arrays, "log_probs").items():
            for choice in [choice for choice in CHOOSERS if f"loss_{choice}" in own]:
                yield from named(
                    case, categorical_checks(path.name, own, choice, torch.from_numpy(own[CHOOSERS[choice]]))
                )


def encoder_checks(file: str, arrays: Arrays, model: ReferenceModel) -> Iterator[Check]:
    encoder = model.encoder
    maps = record_outputs(list(encoder.stages.values())[-1])
    obs = torch.from_numpy(arrays["obs"])
    renorm = encoder(obs).view(arrays["renorm"].shape)
    (renorm * torch.from_numpy(arrays["weighting"])).sum().backward()
    yield relative(file, "conv", maps[-1], arrays["conv"], TOLERANCE)
    yield relative(file, "renorm", renorm.detach(), arrays["renorm"], TOLERANCE)
    for name in [name for name in arrays if name.startswith("grad.")]:
        gradient = model.parameters[name.removeprefix("grad.")].grad
        yield relative(file, name, gradient, arrays[name], TOLERANCE)
    with torch.no_grad():
        if "renorm_blank" in arrays:
            blank = encoder(torch.zeros(len(arrays["conv_blank"]), *obs.shape[1:])).view(arrays["renorm_blank"].shape)
            yield relative(file, "conv_blank", maps[-1], arrays["conv_blank"], TOLERANCE)
            yield relative(file, "renorm_blank", blank, arrays["renorm_blank"], TOLERANCE)
        if "renorm_255" in arrays:
            undivided = encoder(obs.float() * 255).view(arrays["renorm_255"].shape)  # the encoder divides by 255
            yield relative(file, "renorm_255", undivided, arrays["renorm_255"], TOLERANCE)
    # The reference has NaN here: the one result that differs on purpose.
    constant = renormalize(torch.full(arrays["renorm"].shape, 0.5))
    yield exact(file, "renormalised constant map is zero", constant, np.zeros(arrays["renorm"].shape))


def noisy_head_checks(file: str, arrays: Arrays, model: ReferenceModel) -> Iterator[Check]:
    features = torch.from_numpy(arrays["features"]).requires_grad_()
    logits = model.head(
        scale_gradient(features.flatten(1), model.agent.head_gradient_scale),
        model.noise[int(setting(arrays, "noise", 1))],
    )
    (logits * torch.from_numpy(arrays["weighting"])).sum().backward()
    yield relative(file, "logits_noise", logits.detach(), arrays["logits_noise"], TOLERANCE)
    yield relative(file, "logp_noise", logits.detach().log_softmax(-1), arrays["logp_noise"], TOLERANCE)
    yield relative(file, "grad_features", features.grad, arrays["grad_features"], TOLERANCE)
    sums = model.gradient_sum_l2(arrays["grad_names"])
    yield relative(file, "grad_sum_l2", sums, arrays["grad_sum_l2"], SUM_TOLERANCE)


def mean_head_checks(file: str, arrays: Arrays, model: ReferenceModel) -> Iterator[Check]:
    config = model.agent
    with torch.no_grad():
        logits = model.head(torch.from_numpy(arrays["features"]).flatten(1), None)
    probs = logits.softmax(-1)
    values = expected_value(probs, support(config.v_min, config.v_max, config.atoms, CPU))
    yield relative(file, "logits_mu", logits, arrays["logits_mu"], TOLERANCE)
    yield relative(file, "probs_mu", probs, arrays["probs_mu"], TOLERANCE)
    yield relative(file, "q_mu", values, arrays["q_mu"], TOLERANCE)


def projection_checks(file: str, arrays: Arrays, model: ReferenceModel) -> Iterator[Check]:
    features = torch.from_numpy(arrays["features"]).requires_grad_()
    projection = model.projector(features.flatten(1))
    (projection * torch.from_numpy(arrays["proj_weighting"])).sum().backward()
    yield relative(file, "proj", projection.detach(), arrays["proj"], TOLERANCE)
    yield relative(file, "proj_grad_features", features.grad, arrays["proj_grad_features"], TOLERANCE)


def categorical_checks(file: str, arrays: Arrays, case: str, chooser: Tensor) -> Iterator[Check]:
    target_probs, loss_weights = torch.from_numpy(arrays["target_probs"]), torch.from_numpy(arrays["loss_weights"])
    returns, done = torch.from_numpy(arrays["return_n"]), torch.from_numpy(arrays["done_n"])
    atoms = support(setting(arrays, "v_min", V_MIN), setting(arrays, "v_max", V_MAX), target_probs.shape[-1], CPU)
    discount = setting(arrays, "discount", DISCOUNT) ** int(setting(arrays, "n_step"))
    next_probs = of_action(target_probs, expected_value(chooser, atoms).argmax(-1))
    target = project_distribution(next_probs, returns, done, discount, atoms)
    all_log_probs = torch.from_numpy(arrays["log_probs"]).requires_grad_()
    log_probs = of_action(all_log_probs, torch.from_numpy(arrays["action"]))
    loss = categorical_loss(log_probs, target)
    (loss * loss_weights).mean().backward()
    yield relative(file, f"loss_{case}", loss.detach(), arrays[f"loss_{case}"], TOLERANCE)
    bounds = setting(arrays, "kl_floor", KL_FLOOR), setting(arrays, "kl_ceiling", KL_CEILING)
    yield relative(file, f"kl_{case}", categorical_kl(log_probs, target, *bounds), arrays[f"kl_{case}"], TOLERANCE)
    gradient, expected = all_log_probs.grad, arrays[f"grad_logp_{case}"]
    if expected.ndim == 1:  # stored as (sum, L2)
        yield relative(file, f"grad_logp_{case} (sum, L2)", sum_l2(gradient), expected, SUM_TOLERANCE)
    else:
        yield relative(file, f"grad_logp_{case}", gradient, expected, TOLERANCE)


def record_outputs(module: nn.Module) -> list[Tensor]:
    """Returns a list that every later call of `module` appends its detached output to."""
    outputs: list[Tensor] = []
    module.register_forward_hook(lambda module, inputs, output: outputs.append(output.detach()))
    return outputs
