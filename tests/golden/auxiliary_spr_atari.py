"""SPR and PlayVirtual on Rainbow against their reference files: models, losses, gradients, three whole updates."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor, nn

from atari.agent import RainbowAgent
from atari.method import make_agent
from atari.networks import renormalize
from atari.replay import SequenceBatch
from auxiliaries.playvirtual import VirtualDrawn
from auxiliaries.slot import Shared, whole_loss
from auxiliaries.spr import Drawn, MapTransition, encode_actions
from harness.recipe import Spaces
from recipes import COMMANDS
from tests.golden.atari_weights import HEAD_LAYERS, NOISY_PARAMETERS, encoder_config, noise_draws, sum_l2
from tests.golden.auxiliary_spr import record
from tests.golden.check import Arrays, Check, by_case, exact, load, named, relative, setting

LOSSES, GRADIENTS, NORMS, WEIGHTS = 1e-5, 5e-5, 1e-5, 5e-5
FIRST_NORM, LATER_NORMS = 2e-5, 5e-4
LEAST_NORM = 1e-6  # of a gradient whose sum says something
UNBUILT = ("head.adv_bias",)  # cancels in the dueling mean
MODELS = {"tm": "transition", "btm": "backward"}
LAYERS = {"conv_in": "conv_in", "bn": "norm", "conv_out": "conv_out"}
LETTERS = {"w": "weight", "b": "bias"}
BIG = 1e9  # a clip that never acts


def replay_spr(folder: Path) -> Iterator[Check]:
    yield from checks(folder, "spr", "spr")


def replay_pv(folder: Path) -> Iterator[Check]:
    yield from checks(folder, "pv", "playvirtual")


def checks(folder: Path, name: str, auxiliary: str) -> Iterator[Check]:
    weights, batch = load(folder / f"{name}_weights.npz"), load(folder / f"{name}_batch.npz")
    path, updates = folder / f"{name}_loss.npz", folder / f"{name}_step.npz"
    yield from loss_checks(path.name, Model(weights, batch, auxiliary), load(path))
    arrays = load(updates)
    for case, own in by_case(arrays, "tau", "clip", "rl_loss").items():
        model = Model(weights, batch, auxiliary, float(own["tau"]), float(own["clip"]))
        yield from named(f"{case.rstrip('.')} ", update_checks(updates.name, model, own))


class Model:
    """Our agent with the reference's weights and the recorded values in the place of its draws."""

    def __init__(self, weights: Arrays, batch: Arrays, auxiliary: str, tau: float = 1.0, clip: float = BIG):
        self.agent = make(weights, batch, auxiliary, tau, clip)
        self.parameters = dict(parameters(self.agent))
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                values = torch.from_numpy(weights[name].astype(np.float32))
                assert values.shape == parameter.shape, f"{name}: {tuple(values.shape)}, ours {tuple(parameter.shape)}"
                parameter.copy_(values)
        self.ended = np.maximum.accumulate(batch["done"], axis=0)
        self.nonterminal = batch["nonterminal"]
        self.batch = stored(batch, self.ended, self.agent.config.n_step)
        self.agent._augmented = lambda frames, *names: frames.float().repeat(len(names), 1, 1, 1)
        self.agent._noise.copy_(noise_draws(weights)[0])

    def put_noise(self, arrays: Arrays, number: str) -> None:
        """The next draw of the head's noise is the one recorded as `noise<number>`."""
        prefix = f"noise{number}."
        own = {f"noise0.{key.removeprefix(prefix)}": value for key, value in arrays.items() if key.startswith(prefix)}
        drawn = noise_draws(own)[0]
        self.agent.head.draw_noise = lambda generator, device: drawn

    def put_draws(self, actions: np.ndarray | None) -> None:
        """Views are the frames as they are; virtual actions [K, M, B] are the recorded ones."""
        frames = self.batch.frames.float()
        drawn = Drawn(None, frames)
        if actions is not None:
            copies = frames[:1].expand(actions.shape[1], *frames.shape[1:])
            drawn = VirtualDrawn(None, frames, copies, torch.from_numpy(actions))
        self.agent.auxiliary.draw = lambda batch, shared: drawn

    def sum_l2(self, names: list[str]) -> np.ndarray:
        return np.array([sum_l2(self.parameters[name]) for name in names])


def make(weights: Arrays, batch: Arrays, auxiliary: str, tau: float, clip: float) -> RainbowAgent:
    encoder, frames, steps = encoder_config(weights), batch["obs"], len(batch["done"]) - 1
    atoms = len(weights["head.val_out.b_mu"])
    actions = len(weights["head.adv_out.b_mu"]) // atoms
    sizes = {
        "agent.encoder.channels": encoder.channels,
        "agent.encoder.kernels": encoder.kernels,
        "agent.encoder.strides": encoder.strides,
        "agent.hidden": len(weights["head.val_hidden.b_mu"]),
        "agent.atoms": atoms,
        "agent.n_step": int(setting(batch, "n_step", len(frames) - len(batch["done"]))),
        "agent.batch_size": frames.shape[1],
        "agent.clip_norm": clip,
        **{f"agent.{name}": setting(batch, name) for name in ("v_min", "v_max", "discount")},
        "environment.image_size": frames.shape[-1],
        "environment.frame_stack": frames.shape[2],
        "replay.window": steps + 1,
        f"{auxiliary}.steps": steps,
        f"{auxiliary}.tau": tau,
    }
    settings = [
        "game=pong",
        f"auxiliary={auxiliary}",
        *(f"{key}={value}".replace(" ", "") for key, value in sizes.items()),
    ]
    config = COMMANDS["atari"].resolve(settings)
    spaces = Spaces(Box(0, 255, config.observation_shape, np.uint8), Discrete(actions))
    return make_agent(config, spaces, torch.device("cpu"))


def parameters(agent: RainbowAgent) -> Iterator[tuple[str, nn.Parameter]]:
    """Our parameters by the reference's names."""
    owned, targets = agent.auxiliary.owned, agent.auxiliary.targets
    layers: dict[str, nn.Module] = {"pred": owned["predictor"]}
    for prefix, encoder in (("", agent.encoder), ("target.", targets["encoder"])):
        layers |= {f"{prefix}{name}": stage[0] for name, stage in encoder.stages.items()}
    for name, model in MODELS.items():
        if model in owned:
            layers |= {f"{name}.{theirs}": getattr(owned[model], ours) for theirs, ours in LAYERS.items()}
    layers |= {"target.proj.val_hidden": targets["projector"].value}
    layers |= {"target.proj.adv_hidden": targets["projector"].advantage}
    for name, layer in layers.items():
        for letter, kind in LETTERS.items():
            yield f"{name}.{letter}", layer.get_parameter(kind)
    for theirs, ours in HEAD_LAYERS.items():
        for short, path in NOISY_PARAMETERS.items():
            yield f"head.{theirs}.{short}", agent.head.get_submodule(ours).get_parameter(path)


def stored(arrays: Arrays, ended: np.ndarray, n_step: int) -> SequenceBatch:
    """The window after the reference's sanitising; actions begin one step before it."""
    held, length = arrays["held.index"], len(ended)
    columns = np.arange(held.shape[1])
    frames = torch.from_numpy(arrays["obs"][held, columns]).flatten(2, 3)
    actions = torch.from_numpy(arrays["all_action"])[1:]
    return SequenceBatch(
        obs=frames[0],
        next_obs=frames[n_step],
        action=actions[0],
        returns=torch.from_numpy(arrays["held.return_"][0]),
        done=torch.from_numpy(arrays["held.done_n"][0]),
        weights=torch.from_numpy(arrays["is_weights"]),
        indices=torch.arange(held.shape[1]),
        frames=frames[:length],
        actions=actions[:length],
        ended=torch.from_numpy(ended),
    )


def loss_checks(file: str, model: Model, arrays: Arrays) -> Iterator[Check]:
    yield from renormalisation_checks(file, arrays)
    for name, case in (("tm", "transition"), ("btm", "backward")):
        if f"{case}.in" in arrays:
            yield from model_checks(file, model, arrays, name, case)
    agent, auxiliary, batch = model.agent, model.agent.auxiliary, model.batch
    yield exact(file, "steps before an end", ~model.ended, model.nonterminal.astype(bool))
    model.put_draws(arrays.get("virtual.actions"))
    if "virtual.actions" in arrays:
        auxiliary.ramp.fill_(1)
    calls = record(auxiliary)
    latent = agent.encoder(batch.obs.float())
    values, metrics = whole_loss(auxiliary, batch, Shared(latent=latent, weights=batch.weights))
    steps, shape = auxiliary.config.steps, auxiliary.host.facts.latent_shape
    latents = torch.stack((latent, *calls.transition[:steps])).detach()
    yield relative(file, "latents", latents.unflatten(-1, shape), arrays["latents"], LOSSES)
    predictions, targets, distance = calls.distances[0]
    yield relative(
        file, "projections", auxiliary.projector(latents).detach(), rows(arrays["projections"], steps), LOSSES
    )
    yield relative(file, "predictions", predictions, rows(arrays["predictions"], steps)[1:], LOSSES)
    yield relative(file, "target_projections", targets, rows(arrays["target_projections"], steps)[1:], LOSSES)
    yield relative(file, "loss.per_step", distance, arrays["loss.per_step"][1:], LOSSES)
    weighted = (values * batch.weights).mean()
    if "virtual.actions" in arrays:
        predictions, targets, cycle = calls.distances[1]
        yield relative(file, "virtual.predictions", predictions.flatten(0, 1), arrays["virtual.predictions"], LOSSES)
        yield relative(file, "virtual.targets", targets.flatten(0, 1), arrays["virtual.targets"], LOSSES)
        going_on = torch.from_numpy(model.nonterminal).float() * batch.weights
        yield relative(file, "loss.fp_mean", (distance * going_on[1:]).mean(), arrays["loss.fp_mean"], LOSSES)
        yield relative(file, "loss.vc_mean", (cycle * going_on[:1]).mean(), arrays["loss.vc_mean"], LOSSES)
    else:
        yield relative(file, "loss.aux_mean", weighted.detach(), arrays["loss.aux_mean"], LOSSES)
    loss = auxiliary.weight * weighted
    yield relative(file, "loss.aux", loss.detach(), arrays["loss.aux"], LOSSES)
    loss.backward()
    yield from gradient_checks(file, model, arrays, "grad.aux.")
    model.put_noise(arrays, "loss")
    kl, metrics = agent.learn(batch)  # gradients stay as they were, the clip never acts
    yield relative(file, "loss.rl", metrics["rl_loss"], arrays["loss.rl"], LOSSES)
    yield relative(file, "loss.kl", kl, arrays["loss.kl"], LOSSES)
    yield from gradient_checks(file, model, arrays, "grad.total.")
    for ours, theirs in (("grad_norm_encoder_head", "stem_norm"), ("aux/grad_norm_transition", "tm_norm")):
        yield relative(file, theirs, metrics[ours], arrays[f"grad.total.{theirs}"], FIRST_NORM)


def rows(values: np.ndarray, steps: int) -> np.ndarray:
    """Rows b * (K + 1) + k as [K + 1, B, ...]."""
    return values.reshape(-1, steps + 1, *values.shape[1:]).swapaxes(0, 1)


def renormalisation_checks(file: str, arrays: Arrays) -> Iterator[Check]:
    maps = torch.from_numpy(arrays["renorm.in"]).requires_grad_()
    out = renormalize(maps)
    yield relative(file, "renorm.out", out.detach(), arrays["renorm.out"], LOSSES)
    out.backward(torch.from_numpy(arrays["renorm.cotangent"]))
    # Pixels that share a minimum divide its gradient here, and one takes it in the release. Behind a ReLU none passes.
    flat, theirs = maps.detach().flatten(1), torch.from_numpy(arrays["renorm.grad"]).flatten(1)
    least, ours = flat == flat.amin(1, keepdim=True), maps.grad.flatten(1)
    for name, where in (("above the minimum", ~least), ("at the minimum", least)):
        both = [(gradient * where) for gradient in (ours, theirs)]
        if name == "at the minimum":
            both = [gradient.sum(1) for gradient in both]
        yield relative(file, f"renorm.grad {name}", *both, GRADIENTS)


def model_checks(file: str, model: Model, arrays: Arrays, name: str, case: str) -> Iterator[Check]:
    """Three steps in a row of a transition model."""
    module: MapTransition = model.agent.auxiliary.owned[MODELS[name]]
    start = torch.from_numpy(arrays[f"{case}.in"]).requires_grad_()
    latent: Tensor = start.flatten(1)
    for number, actions in enumerate(torch.from_numpy(arrays[f"{case}.actions"]), start=1):
        latent = module(latent, encode_actions(actions, model.agent.auxiliary.host))
        key = f"{case}.out{number}"
        yield relative(file, key, latent.unflatten(1, module.shape).detach(), arrays[key], LOSSES)
    latent.backward(torch.from_numpy(arrays[f"{case}.cotangent"]).flatten(1))
    yield relative(file, f"{case}.grad_in", start.grad, arrays[f"{case}.grad_in"], GRADIENTS)
    for key in (key for key in arrays if key.startswith(f"{case}.grad.")):
        gradient = model.parameters[key.removeprefix(f"{case}.grad.")].grad
        yield relative(file, key, gradient, arrays[key], GRADIENTS)
    module.zero_grad(set_to_none=True)


def gradient_checks(file: str, model: Model, arrays: Arrays, prefix: str) -> Iterator[Check]:
    names = [str(name) for name in arrays["grad.names"]]
    built = [name for name in names if name not in UNBUILT]
    none = {str(name) for name in arrays[f"{prefix}none"]} - {*UNBUILT}
    gradients = {name: model.parameters[name].grad for name in built}
    yield exact(file, f"{prefix} none", sorted(k for k, v in gradients.items() if v is None), sorted(none))
    table = dict(zip(names, arrays[f"{prefix}sum_l2"], strict=True))
    shares = []
    for name in (name for name in built if name not in none):
        total, norm = table[name]
        ours = gradients[name].double()
        yield relative(file, f"{prefix} L2 of {name}", ours.norm(), norm, GRADIENTS)
        if norm >= LEAST_NORM:
            shares.append((float(ours.sum()) / norm, total / norm))
    yield relative(file, f"{prefix} sums", *map(np.array, zip(*shares, strict=True)), GRADIENTS)
    for name in (name for name in built if f"{prefix}{name}" in arrays):
        yield relative(file, f"{prefix}{name}", gradients[name], arrays[f"{prefix}{name}"], GRADIENTS)


def update_checks(file: str, model: Model, arrays: Arrays) -> Iterator[Check]:
    agent, names = model.agent, [str(name) for name in arrays["param_names"]]
    rows = [index for index, name in enumerate(names) if name not in UNBUILT]
    names = [names[index] for index in rows]
    yield exact(file, "parameters", sorted(model.parameters), sorted(names))
    tables = arrays["param_sum_l2"][:, rows]
    yield from table_checks(file, model, names, tables[0], "before")
    divergences, measured = [], []
    for update in range(1, len(tables)):
        model.put_noise(arrays, str(update))
        model.put_draws(arrays.get(f"virtual.actions{update}"))
        if "vc_weight" in arrays:
            agent.auxiliary.begin_update(int(arrays["itr"][update - 1]))
            ramp, expected = agent.auxiliary.ramp, arrays["vc_weight"][update - 1]
            yield relative(file, f"ramp {update}", ramp, expected, LOSSES)
        kl, metrics = agent.learn(model.batch)
        divergences.append(kl.numpy())
        measured.append(metrics)
        yield from table_checks(file, model, names, tables[update], f"after update {update}")
    weighted = agent.auxiliary.weight
    series = {
        "rl_loss": [float(metrics["rl_loss"]) for metrics in measured],
        "aux_loss_weighted": [weighted * float(metrics["aux/loss"]) for metrics in measured],
    }
    for key, values in series.items():
        if key in arrays:
            yield relative(file, key, values, arrays[key], WEIGHTS)
    yield relative(file, "kl", np.stack(divergences), arrays["kl"], WEIGHTS)
    norms = {"stem_grad_norm": "grad_norm_encoder_head", "tm_grad_norm": "aux/grad_norm_transition"}
    norms["btm_grad_norm"] = "aux/grad_norm_backward"
    for theirs, ours in norms.items():
        if theirs in arrays:
            values = [float(metrics[ours]) for metrics in measured]
            yield relative(file, f"{theirs} first", values[:1], arrays[theirs][:1], FIRST_NORM)
            yield relative(file, f"{theirs} later", values[1:], arrays[theirs][1:], LATER_NORMS)
    for name in (name for name in names if f"{name}_after" in arrays):
        yield relative(file, f"{name} afterwards", model.parameters[name].detach(), arrays[f"{name}_after"], WEIGHTS)


def table_checks(file: str, model: Model, names: list[str], expected: np.ndarray, when: str) -> Iterator[Check]:
    """L2 norms, and sums as shares of them."""
    actual, scale = model.sum_l2(names), expected[:, 1]
    yield relative(file, f"L2 norms {when}", actual[:, 1] / scale, np.ones_like(scale), NORMS)
    yield relative(file, f"sums {when}", actual[:, 0] / scale, expected[:, 0] / scale, WEIGHTS)
