"""SPR and PlayVirtual on SAC against their reference files: latents, losses, gradients, three whole updates.

`spr` is PlayVirtual's baseline, `mlrspr` that of MLR's repository, `cycdm` PlayVirtual itself, whose case `fp` is SPR.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from auxiliaries.playvirtual import VirtualDrawn
from auxiliaries.slot import Auxiliary
from auxiliaries.spr import SPR, Drawn
from tests.golden.auxiliary_weights import LOSSES, Reference, gradient_checks, load_set, update_checks
from tests.golden.check import Arrays, Check, below, load, named, relative
from tests.golden.dmcontrol_weights import encoder_layers, mlp_layers

ALL = slice(None)
SETTINGS = {  # of the optimisers, as released
    "spr": ("aux_optimizer.encoder_rate_factor=3", "aux_optimizer.learning_rate=1e-3", "aux_optimizer.clip_norm=null"),
    "mlrspr": (),
    "cycdm": ("aux_optimizer.encoder_rate_factor=2",),
}
OFF = ("backward_prediction_loss", "real_cycle_loss", "reward_loss")  # recorded, with weight 0
BACKWARD = "aux/backward_transition/"


def replay_spr(folder: Path) -> Iterator[Check]:
    yield from checks(folder, "spr", "fp", "fp/", "")


def replay_mlrspr(folder: Path) -> Iterator[Check]:
    yield from checks(folder, "mlrspr", "fp", "fp/", "")


def replay_cycdm(folder: Path) -> Iterator[Check]:
    for case in ("fp", "fp+cycle"):
        yield from named(f"{case} ", checks(folder, "cycdm", case, f"{case}/", f"{case}/"))


def checks(folder: Path, name: str, case: str, of_loss: str, of_updates: str) -> Iterator[Check]:
    cycle = case == "fp+cycle"
    losses, updates = folder / f"{name}_loss.npz", folder / f"{name}_updates.npz"
    arrays = load(updates)
    steps = arrays["steps"]
    recorded = trained(below(load(losses), f"loss/{of_loss}"), cycle)
    yield from loss_checks(losses.name, reference_of(folder, name, cycle), recorded, int(steps[0]), cycle)
    own = trained(below(arrays, of_updates) | {key: arrays[key] for key in ("steps", "param_names")}, cycle)
    yield from whole_updates(updates.name, reference_of(folder, name, cycle), own, cycle)


def reference_of(folder: Path, name: str, cycle: bool) -> Reference:
    state, auxiliary = load(folder / f"{name}_state.npz"), "playvirtual" if cycle else "spr"
    frames = load(folder / f"{name}_batch.npz")["frames"]
    steps = len(frames) - 1
    settings = [
        f"replay.window={len(frames)}",
        f"aux_optimizer.batch_size={frames.shape[1]}",
        "environment.action_repeat=1",  # the reference's steps are those of the environment
        f"{auxiliary}.steps={steps}",
        f"{auxiliary}.weight={1 if name == 'spr' else steps}",
        f"{auxiliary}.width={len(state['aux/transition/fc/bias'])}",
        f"{auxiliary}.projection={len(state['aux/projector/fc0/bias'])}",
    ]
    if cycle:
        settings.append(f"playvirtual.copies={int(state['size/M'])}")
    return load_set(folder, name, auxiliary, layers, *settings, *SETTINGS[name])


def layers(auxiliary: Auxiliary) -> Iterator[tuple[str, nn.Module]]:
    owned, targets = auxiliary.owned, auxiliary.targets
    yield from encoder_layers("aux/target_encoder", targets["encoder"])
    yield from mlp_layers("aux/target_projector", targets["projector"])
    for name in ("projector", "predictor"):
        yield from mlp_layers(f"aux/{name}", owned[name])
    for ours, theirs in (("transition", "aux/transition/"), ("backward", BACKWARD)):
        if ours in owned:
            for name, layer in owned[ours].named_children():
                yield f"{theirs}{name}", layer


def trained(arrays: Arrays, cycle: bool) -> dict[str, np.ndarray]:
    """The arrays without losses of weight 0, and without the backward model where nothing uses it."""
    arrays = {key: value for key, value in arrays.items() if not key.endswith(OFF)}
    if cycle:
        return arrays
    arrays = {key: value for key, value in arrays.items() if "vitual" not in key and BACKWARD not in key}
    for names, rows in (("grad_names", ("grad_sum_l2", 0)), ("param_names", ("sum_and_l2", 1)), ("grad_none", None)):
        if names in arrays:
            kept = [not str(name).startswith(BACKWARD) for name in arrays[names]]
            arrays[names] = arrays[names][kept]
            if rows is not None:
                arrays[rows[0]] = np.compress(kept, arrays[rows[0]], axis=rows[1])
    return arrays


def put_draws(reference: Reference, uniform: np.ndarray | None) -> None:
    """Views are the frames as they are; virtual actions come from draws [K, M, N, A] on [0, 1)."""
    frames = reference.batch.frames.float()
    drawn = Drawn(frames[:1], frames)
    if uniform is not None:
        copies = frames[:1].expand(uniform.shape[1], *frames.shape[1:])
        drawn = VirtualDrawn(frames[:1], frames, copies, 2 * torch.from_numpy(uniform) - 1)
    reference.agent.auxiliary.draw = lambda batch, shared: drawn


@dataclass
class Calls:
    """Results of an auxiliary's networks and distances, in order."""

    transition: list[Tensor] = field(default_factory=list)
    backward: list[Tensor] = field(default_factory=list)
    distances: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)  # predictions, targets, distance


def record(auxiliary: SPR) -> Calls:
    calls, distance = Calls(), auxiliary._distance
    for name in ("transition", "backward"):
        if name in auxiliary.owned:
            seen = getattr(calls, name)
            auxiliary.owned[name].register_forward_hook(lambda module, _, output, seen=seen: seen.append(output))

    def measuring(predictions: Tensor, targets: Tensor) -> tuple:
        found = distance(predictions, targets)
        calls.distances.append((predictions.detach(), targets, found[0].detach()))
        return found

    auxiliary._distance = measuring
    return calls


def loss_checks(file: str, reference: Reference, arrays: Arrays, step: int, cycle: bool) -> Iterator[Check]:
    auxiliary, batch, shared = reference.agent.auxiliary, reference.batch, reference.shared
    put_draws(reference, arrays["virtual/uniform_draws"] if cycle else None)
    auxiliary.begin_update(step)
    calls = record(auxiliary)
    values = auxiliary.loss(batch, shared, auxiliary.draw(batch, shared), ALL)
    steps = auxiliary.config.steps
    for number, latent in enumerate(calls.transition[:steps], start=1):
        key = f"predicted_latent{number}"
        yield relative(file, key, latent.detach(), arrays[key], LOSSES)
    predictions, targets, distance = calls.distances[0]
    yield relative(file, "predictions", predictions, arrays["predictions"][1:], LOSSES)
    yield relative(file, "targets", targets, arrays["target_projections"][1:], LOSSES)
    yield relative(file, "distance of each step", distance, arrays["per_step"][1:], LOSSES)
    if cycle:
        predictions, targets, _ = calls.distances[1]
        ours = (calls.transition[-1], calls.backward[-1], predictions.flatten(0, 1), targets.flatten(0, 1))
        for name, latent in zip(("end_latent", "back_latent", "prediction", "target"), ours, strict=True):
            yield relative(file, name, latent.detach(), arrays[f"virtual/{name}"], LOSSES)
    loss = auxiliary.weight * values["loss"].mean()
    for key in (key for key in arrays if key.startswith("logged/")):
        measure = LOGGED[key.removeprefix("logged/")](auxiliary)
        metrics = {"aux/loss": values["loss"].mean()}
        metrics |= {f"aux/{name}": value for name, value in auxiliary.metrics(values, None).items()}
        yield relative(file, key, measure(metrics).detach(), arrays[key], LOSSES)
    loss.backward()
    yield from gradient_checks(file, reference, arrays, "")


def of_total(auxiliary: SPR) -> Callable[[dict[str, Tensor]], Tensor]:
    return lambda metrics: auxiliary.weight * metrics["aux/loss"]


def of_prediction(auxiliary: SPR) -> Callable[[dict[str, Tensor]], Tensor]:
    return lambda metrics: auxiliary.config.weight * metrics.get("aux/prediction_loss", metrics["aux/loss"])


def of_cycle(auxiliary: SPR) -> Callable[[dict[str, Tensor]], Tensor]:
    return lambda metrics: auxiliary.ramp * metrics["aux/cycle_loss"]


LOGGED = {
    "train/spr_loss": of_total,
    "train/cycdm_loss": of_total,
    "train/forwad_prediction_loss": of_prediction,
    "train/vitual_cycle_loss": of_cycle,
}


def whole_updates(file: str, reference: Reference, arrays: Arrays, cycle: bool) -> Iterator[Check]:
    measures = {key: measure(reference.agent.auxiliary) for key, measure in LOGGED.items()}

    def draw(update: int) -> None:
        put_draws(reference, arrays[f"uniform_draws{update}"] if cycle else None)

    yield from update_checks(file, reference, arrays, measures, draw)
