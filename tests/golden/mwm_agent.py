"""Replays k, m, n and the real sizes of a folder of MWM reference files: whole rounds, pictures, acting, parameters."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mwm.agent import Memory, MWMAgent
from mwm.config import MWMSection
from mwm.pictures import show_prediction
from mwm.policy import truncated_sample
from tests.golden.check import Arrays, Check, exact, load, relative
from tests.golden.mwm_autoencoder import FORWARD, make_autoencoder
from tests.golden.mwm_behaviour import make_behaviour, weight_check
from tests.golden.mwm_dynamics import METRICS, make_dynamics, tensors, window_batch
from tests.golden.mwm_weights import (
    Recorded,
    action_draws,
    chosen,
    fill,
    last_axis_channels,
    latent_draws,
    make_section,
    pictures_of,
    read_sizes,
    weights_of,
)

CPU = torch.device("cpu")
MODULES = ("encoder", "decoder", "pool", "unpool", "rssm", "reward", "actor", "critic", "target")
BEHAVIOUR_METRICS = {
    "actor_loss": "actor_loss",
    "critic_loss": "critic_loss",
    "actor_grad_norm": "actor_grad_norm",
    "critic_grad_norm": "critic_grad_norm",
    "policy_entropy": "actor_ent",
    "imagined_reward": "reward_mean",
    "scaled_reward": "reward_normed_mean",
    "value": "critic",
    "target_value": "critic_slow",
    "returns": "critic_target",
}
DYNAMICS_METRICS = METRICS | {"loss": "model_loss", "grad_norm": "model_grad_norm"}


def make_agent(section: MWMSection, image_size: int, actions: int) -> MWMAgent:
    return MWMAgent(
        section, image_size=image_size, action_size=actions, random_steps=0, seed=0, precision="fp32", device=CPU
    )


def modules_of(agent: MWMAgent) -> dict[str, nn.Module]:
    """Our modules by the names of the reference's."""
    found = {}
    for part in (agent.autoencoder, agent.dynamics, agent.behaviour):
        found |= {name: getattr(part, name) for name in MODULES if hasattr(part, name)}
    return found


def replay_k(folder: Path) -> Iterator[Check]:
    """Three whole rounds of autoencoder, dynamics, actor and critic: metrics, and all weights after each."""
    sizes = read_sizes(folder)
    for path in sorted(folder.glob("k_*.npz")):
        arrays, file = load(path), path.name
        section = make_section(sizes)
        optimizers = section.optimizers
        warm = replace(optimizers.autoencoder, warmup_updates=int(arrays["warmup"]))
        behaviour = replace(section.behaviour, target_every=int(arrays["slow_target_update"]))
        section = replace(section, optimizers=replace(optimizers, autoencoder=warm), behaviour=behaviour)
        agent = make_agent(section, sizes["picture"], sizes["actions"])
        for name, module in modules_of(agent).items():
            fill(module, arrays, name, "w0")
        for number in range(1, 1 + sum(key.startswith("ae_loss_") for key in arrays)):
            yield from round_checks(file, agent, arrays, f"_{number}", sizes["rssm"]["classes"])
            for name, module in modules_of(agent).items():
                ours = module.state_dict()
                for key, expected in weights_of(arrays, name, f"w{number}").items():
                    yield weight_check(file, f"w{number} {name} {key}", ours[key], expected.numpy())


def round_checks(file: str, agent: MWMAgent, arrays: Arrays, suffix: str, classes: int) -> Iterator[Check]:
    pictures = pictures_of(arrays[f"ae_image{suffix}"]).flatten(0, 1)
    rewards, noise = tensors(arrays, f"ae_reward{suffix}", f"ae_noise{suffix}")
    metrics = agent.train_autoencoder(pictures, rewards.flatten(), noise)
    batch = window_batch(arrays, "wm_", suffix)
    latents = latent_draws(arrays[f"draws_post{suffix}"].swapaxes(0, 1), classes)
    observed, more = agent.train_dynamics(batch, latents)
    imagined = latent_draws(arrays[f"draws_imagined{suffix}"], classes)
    actions = action_draws(arrays[f"draws_action_u{suffix}"])
    metrics |= more | agent.train_behaviour(observed, batch.terminal, imagined, actions)
    names = {"autoencoder/loss": f"ae_loss{suffix}", "autoencoder/grad_norm": f"ae_norm{suffix}"}
    for part, table in (("dynamics", DYNAMICS_METRICS), ("behaviour", BEHAVIOUR_METRICS)):
        names |= {f"{part}/{ours}": f"metric_{theirs}{suffix}" for ours, theirs in table.items()}
    for ours, theirs in names.items():
        if ours in metrics:
            yield relative(file, theirs, metrics[ours].detach(), arrays[theirs], 1e-4)
    magnitude = agent.behaviour.scale.magnitude
    yield relative(file, f"magnitude{suffix}", magnitude, arrays[f"magnitude{suffix}"], FORWARD)


@torch.no_grad()
def replay_m(folder: Path) -> Iterator[Check]:
    """Truth, autoencoder, and five steps with pictures followed by open loop."""
    sizes = read_sizes(folder)
    classes = sizes["rssm"]["classes"]
    for path in sorted(folder.glob("m_*.npz")):
        arrays, file = load(path), path.name
        autoencoder, dynamics = make_autoencoder(sizes, arrays), make_dynamics(sizes, arrays, file)
        draws = [arrays[name].swapaxes(0, 1) for name in ("draws_post", "draws_imagined")]
        noise = torch.from_numpy(arrays["noise"])
        recorded = Recorded(*chosen(np.concatenate(draws), classes))
        shown = show_masked(file, autoencoder, dynamics, arrays, noise, recorded)
        video = torch.cat((shown.truth, shown.reconstruction, shown.prediction), dim=-2)  # [B, T, 3, 3 P, P]
        video = last_axis_channels(video).permute(1, 2, 0, 3, 4).flatten(2, 3)
        yield relative(file, "video", video, arrays["video"], FORWARD)


def show_masked(file: str, autoencoder, dynamics, arrays: Arrays, noise: Tensor, draws: Recorded):
    """The prediction grid; with patches, each window's mask holds for all its steps."""
    actions, first = tensors(arrays, "action", "is_first")
    steps, mask = actions.shape[1], None
    if "patch" in file:
        mask = autoencoder.mask(noise.flatten(0, -2).repeat_interleave(steps, dim=0))
    return show_prediction(
        autoencoder, dynamics, pictures_of(arrays["image"]), actions, first, arrays["draws_post"].shape[1], mask, draws
    )


@torch.no_grad()
def replay_n(folder: Path) -> Iterator[Check]:
    """Acting with memory at several slots, in training and evaluation, with a restart inside."""
    sizes = read_sizes(folder)
    section, classes = make_section(sizes), sizes["rssm"]["classes"]
    for path in sorted(folder.glob("n_*.npz")):
        arrays, file = load(path), path.name
        parts = nn.ModuleDict(
            {"autoencoder": make_autoencoder(sizes, arrays), "dynamics": make_dynamics(sizes, arrays, file)}
        )
        actor = make_behaviour(sizes, arrays).actor
        for mode in ("train", "eval"):
            memory = Memory(section, len(arrays[f"{mode}_image_0"]), sizes["actions"], CPU)
            for step in range(sum(key.startswith(f"{mode}_image_") for key in arrays)):
                (first,) = tensors(arrays, f"{mode}_is_first_{step}")
                noise = chosen(arrays[f"{mode}_draw_post_{step}"], classes)
                pictures = pictures_of(arrays[f"{mode}_image_{step}"])
                feature = memory.see(parts, pictures, first, Recorded(noise))
                mean, std = actor(feature)
                action = actor.mean(feature)
                if mode == "train":
                    (uniforms,) = tensors(arrays, f"train_action_u_{step}")
                    action = truncated_sample(mean, std, uniforms, "released")
                memory.action.copy_(action)
                yield relative(file, f"{mode}_action_{step}", action, arrays[f"{mode}_action_{step}"], FORWARD)
                yield relative(file, f"{mode}_deter_{step}", memory.deter, arrays[f"{mode}_deter_{step}"], FORWARD)
                logits = parts["dynamics"].rssm.posterior(memory.deter, embedding_of(parts, pictures))
                yield relative(file, f"{mode}_logit_{step}", logits, arrays[f"{mode}_logit_{step}"], FORWARD)


def embedding_of(parts: nn.ModuleDict, pictures: Tensor) -> Tensor:
    return parts["dynamics"].pool(parts["autoencoder"].features(pictures))


def replay_real(folder: Path) -> Iterator[Check]:
    """Shapes, counts and spreads of our initial weights at the paper's sizes; a set of other sizes has no such file."""
    for path in sorted(folder.glob("real_shapes.json")):
        reference = json.loads(path.read_text())["metaworld"]
        recorded = reference["variables_shape_mean_std_absmax_at_init"]
        actions = recorded["actor/out/out/kernel"][0][1]
        modules = modules_of(make_agent(real_section(), 64, actions))
        for name, count in reference["parameters"].items():
            yield exact(path.name, f"parameters of {name}", sum(w.numel() for w in modules[name].parameters()), count)
        arrays = {f"w:{key}": np.zeros(shape, np.float32) for key, (shape, *_) in recorded.items()}
        for name, module in modules.items():
            spreads = [entry for key, entry in recorded.items() if key.startswith(f"{name}/")]
            shapes = weights_of(arrays, name)
            ours = module.state_dict()
            yield exact(path.name, f"shapes of {name}", len(ours), len(shapes))
            for (key, zero), (_, _, std, largest) in zip(shapes.items(), spreads, strict=True):
                yield exact(path.name, f"shape of {name} {key}", ours[key].shape, zero.shape)
                if zero.dim() > 1:  # uniform, so that the largest is close to the bound
                    tolerance = 0.05 + 3 / np.sqrt(zero.numel())
                    yield relative(path.name, f"std of {name} {key}", ours[key].std(), std, tolerance)
                    yield relative(path.name, f"largest of {name} {key}", ours[key].abs().max(), largest, tolerance)


def real_section() -> MWMSection:
    """The paper's sizes."""
    wide, narrow = {"width": 256, "heads": 4}, {"width": 128, "heads": 4, "blocks": 2}
    sizes = {"encoder": wide | {"blocks": 4}, "decoder": wide | {"blocks": 3}, "pool": narrow, "unpool": narrow}
    sizes |= {"rssm": {"hidden": 1024, "deter": 1024, "variables": 32, "classes": 32}, "horizon": 15}
    return make_section(sizes | dict.fromkeys(("reward", "actor", "critic"), [512] * 4))
