"""The reference agent: ours, filled with the starting state of a folder of DMControl reference files, and its batch.

Sizes come from the shapes of the arrays, and from settings where they leave no trace in one (SETTINGS). Everything else
comes from `configs/`: the reference has the released rates. Without a setting there is one attention head, and the
first stride is 2. Frames pass through the recorded augmentation (views.py); without one, the window is the centre.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor, nn

from auxiliaries.slot import Reads
from dmcontrol.agent import SACAgent
from dmcontrol.config import DMControlConfig, EncoderConfig, map_sides
from dmcontrol.method import make_agent
from dmcontrol.networks import PixelEncoder
from harness.recipe import Spaces
from mlr.augmentation import RandomCrop
from mlr.objective import MLR
from recipes import COMMANDS
from tests.golden.check import Arrays, load, setting
from tests.golden.views import Crop, recorded_views

BLOCK_LAYERS = {"ln1": "ln1", "qkv": "qkv", "proj": "proj", "ln2": "ln2", "mlp0": "fc1", "mlp1": "fc2"}
BATCH = """
    seq_observation seq_action mask_cells_per_frame obs next_obs action reward not_done noise_target_policy
    noise_actor_policy
""".split()
UNUSED = "mlr/unused/"  # exists in the reference, influences nothing
# Our keys by the names of settings.
SETTINGS = {
    "discount": "agent.discount",
    "update_every": "agent.update_every",
    "critic_tau": "agent.critic_tau",
    "encoder_tau": "agent.critic_encoder_tau",
    "log_std_min": "agent.log_std_min",
    "log_std_max": "agent.log_std_max",
    "lr": "agent.learning_rate",
    "alpha_lr": "agent.temperature_learning_rate",
}
MLR_SETTINGS = {
    "heads": "mlr.decoder.heads",
    "mlr_tau": "mlr.tau",
    "norm_floor": "mlr.norm_floor",
    "clip": "aux_optimizer.clip_norm",
    "warmup_updates": "aux_optimizer.warmup_updates",
    "warmup_start": "aux_optimizer.warmup_start",
}


@dataclass
class Batch:
    """The transitions and windows of a reference batch, by the names that the agent reads."""

    obs: Tensor  # uint8 [B, C, S, S], already cropped
    action: Tensor  # float32 [B, A]
    reward: Tensor  # float32 [B]
    next_obs: Tensor  # uint8 [B, C, S, S]
    bootstrap: Tensor  # float32 [B]
    frames: Tensor  # uint8 [T, N, C, H, W]
    actions: Tensor  # float32 [T, N, A]
    hidden: Tensor  # bool [1, T, g, g]
    noise: dict[str, Tensor]  # float32 [B, A], by the agent's purposes

    def require_transition(self) -> None:
        """There is one."""

    require_window = require_transition

    def sample(self, batch_size: int, generator: torch.Generator) -> "Batch":
        return self

    def windows(self, batch_size: int, generator: torch.Generator, reads: Reads) -> "Batch":
        return self


@dataclass
class Reference:
    config: DMControlConfig
    agent: SACAgent
    batch: Batch
    parameters: dict[str, nn.Parameter]  # ours by the reference's names
    update: int = 0  # number of the update that runs, of those recorded in a row


def load_reference(folder: Path, own: Arrays, aux: str = "mlr", *overrides: str) -> Reference:
    """Our agent in the reference's starting state, with the reference's values in place of its random draws.

    `own` are a file's or case's arrays: its settings, augmentation and batch go before those of the folder.
    """
    state, shared = load(folder / "state.npz"), load(folder / "batch.npz")
    arrays = state | shared | dict(own)
    image_size = arrays["seq_observation"].shape[-1]
    crop_size = int(setting(arrays, "crop", arrays["obs"].shape[-1]))
    crop = RandomCrop(image_size, crop_size, 0, "resample" if setting(arrays, "resample", 0) else "slice")
    batch = make_batch(arrays, crop)
    config = make_config(state, arrays, batch, aux, *overrides)
    agent = make_agent(config, spaces(batch), torch.device("cpu"))
    parameters = dict(named_parameters(agent))
    for name, parameter in parameters.items():
        values = torch.from_numpy(floats(state, name))
        assert values.shape == parameter.shape, f"{name}: {tuple(values.shape)}, ours {tuple(parameter.shape)}"
        with torch.no_grad():
            parameter.copy_(values)
    agent._cropped = lambda pixels, generator: pixels
    agent._noise = lambda like, purpose: batch.noise[purpose][: len(like)]
    reference = Reference(config, agent, batch, parameters)
    if agent.auxiliary is not None:
        centre = ((image_size - crop_size) // 2,) * 2
        masked, target = (
            recorded_views(arrays, (whose, "clip"), crop, centre, batch_major=False) for whose in ("masked", "target")
        )
        objective = agent.auxiliary.objective
        objective.mask = lambda: batch.hidden
        objective.augment_masked = lambda frames: masked(frames, reference.update)
        objective.augment_target = lambda frames: target(frames, reference.update)
    return reference


def spaces(batch: Batch) -> Spaces:
    return Spaces(Box(0, 255, batch.frames.shape[2:], np.uint8), Box(-1.0, 1.0, batch.action.shape[1:], np.float32))


def floats(state: Arrays, name: str) -> np.ndarray:
    """An array of the state; the big matrices are stored as integers."""
    values = state[name]
    return values.astype(np.float32) * np.float32(state["fc_scale"]) if values.dtype == np.int8 else values


def make_batch(arrays: Arrays, crop: Crop) -> Batch:
    """The batch, its transitions cropped where the file records a crop for them."""
    tensors = {name: torch.from_numpy(arrays[name]) for name in BATCH}
    for name, whose in (("obs", "obs"), ("next_obs", "next")):
        if (views := recorded_views(arrays, (whose,), crop, None, batch_major=False)).values:
            tensors[name] = views(tensors[name])
    return Batch(
        obs=tensors["obs"],
        action=tensors["action"],
        reward=tensors["reward"].squeeze(1),
        next_obs=tensors["next_obs"],
        bootstrap=tensors["not_done"].squeeze(1),
        frames=tensors["seq_observation"],
        actions=tensors["seq_action"],
        hidden=tensors["mask_cells_per_frame"].bool().unsqueeze(0),
        noise={
            "noise_target": tensors["noise_target_policy"],
            "noise_actor": tensors["noise_actor_policy"],
            "noise_acting": tensors["noise_actor_policy"],
        },
    )


def make_config(state: Arrays, arrays: Arrays, batch: Batch, aux: str, *overrides: str) -> DMControlConfig:
    """The released configuration with the sizes of the arrays."""
    image_size, crop_size = batch.frames.shape[-1], batch.obs.shape[-1]
    encoder = encoder_config(state, crop_size)
    named = SETTINGS | (MLR_SETTINGS if aux == "mlr" else {})
    sizes = {
        "environment.image_size": image_size,
        "environment.frame_stack": batch.obs.shape[1] // 3,
        "agent.crop_size": crop_size,
        "agent.encoder.filters": encoder.filters,
        "agent.encoder.strides": encoder.strides,
        "agent.encoder.latent": encoder.latent,
        "agent.hidden": len(state["critic/q1/fc0/bias"]),
    }
    if aux == "mlr":
        sizes |= mlr_sizes(state, batch, encoder.latent)
    recorded = {key: setting(arrays, name) for name, key in named.items()}
    sizes |= {key: int(value) if value.is_integer() else value for key, value in recorded.items() if value is not None}
    settings = [f"{key}={value}".replace(" ", "") for key, value in sizes.items()]
    return COMMANDS["dmcontrol"].resolve(["task=finger_spin", f"auxiliary={aux}", *settings, *overrides])


def mlr_sizes(state: Arrays, batch: Batch, latent: int) -> dict[str, int | float]:
    image_size = batch.frames.shape[-1]
    sizes = {
        "replay.window": len(batch.frames),
        "aux_optimizer.batch_size": batch.frames.shape[1],
        "mlr.mask.ratio": 1,  # the masks come ready-made; of any number of cells this one hides some
        "mlr.mask.patch_size": image_size // batch.hidden.shape[-1],
        "mlr.mask.cube_depth": 1,
        "mlr.decoder.depth": count(state, "mlr/block{}/qkv/weight"),
        "mlr.decoder.heads": 1,
        "aux_networks.projection": len(state["mlr/projector/fc0/bias"]),
    }
    if sizes["mlr.decoder.depth"]:
        sizes["mlr.decoder.mlp_ratio"] = len(state["mlr/block0/mlp0/bias"]) / latent
        sizes["mlr.decoder.qkv_bias"] = "mlr/block0/qkv/bias" in state
    return sizes


def encoder_config(state: Arrays, crop_size: int) -> EncoderConfig:
    """The recorded or the usual strides, or others of 1 and 2 whose last map is what the linear layer takes."""
    latent, features = state["critic/encoder/fc/weight"].shape
    filters, layers = len(state["critic/encoder/conv0/bias"]), count(state, "critic/encoder/conv{}/weight")
    recorded = [state["size/strides"].tolist()] if "size/strides" in state else []
    for strides in (*recorded, (2, *[1] * (layers - 1)), *product((2, 1), repeat=layers)):
        config = EncoderConfig(filters, list(strides), latent, tanh=False)
        if filters * map_sides(config, crop_size)[-1] ** 2 == features:
            return config
    raise ValueError(f"no strides of 1 and 2 make {features} values of {crop_size} pixels with {layers} convolutions")


def count(state: Arrays, pattern: str) -> int:
    number = 0
    while pattern.format(number) in state:
        number += 1
    return number


def named_parameters(agent: SACAgent) -> Iterator[tuple[str, nn.Parameter]]:
    """Our parameters by the reference's names."""
    for layer, module in named_layers(agent):
        for kind, parameter in module.named_parameters():
            yield f"{layer}/{kind}", parameter
    yield "log_alpha", agent.log_temperature


def named_layers(agent: SACAgent) -> Iterator[tuple[str, nn.Module]]:
    yield from rl_layers(agent)
    if agent.auxiliary is not None:
        yield from objective_layers(agent.auxiliary.objective)


def rl_layers(agent: SACAgent) -> Iterator[tuple[str, nn.Module]]:
    yield from encoder_layers("critic/encoder", agent.encoder)
    yield from encoder_layers("critic_target/encoder", agent.target_encoder)
    yield from (("actor/encoder/fc", agent.actor.latent.fc), ("actor/encoder/ln", agent.actor.latent.ln))
    yield from mlp_layers("actor/policy", agent.actor.policy)
    for prefix, heads in (("critic", agent.q_heads), ("critic_target", agent.target_q_heads)):
        yield from mlp_layers(f"{prefix}/q1", heads.q1)
        yield from mlp_layers(f"{prefix}/q2", heads.q2)


def objective_layers(mlr: MLR) -> Iterator[tuple[str, nn.Module]]:
    yield from encoder_layers("mlr/target_encoder", mlr.targets["encoder"])
    yield from mlp_layers("mlr/projector", mlr.projector)
    yield from mlp_layers("mlr/target_projector", mlr.targets["projector"])
    yield from mlp_layers("mlr/predictor", mlr.owned["predictor"])
    yield "mlr/action_embed", mlr.owned["action_embedding"]
    for index, block in enumerate(mlr.owned["decoder"].blocks):
        for theirs, ours in BLOCK_LAYERS.items():
            yield f"mlr/block{index}/{theirs}", block.get_submodule(ours)


def encoder_layers(prefix: str, encoder: PixelEncoder) -> Iterator[tuple[str, nn.Module]]:
    for index, stage in enumerate(encoder.convolutions.stages.values()):
        yield f"{prefix}/conv{index}", stage[0]
    yield f"{prefix}/fc", encoder.latent.fc
    yield f"{prefix}/ln", encoder.latent.ln


def mlp_layers(prefix: str, layers: nn.Sequential) -> Iterator[tuple[str, nn.Module]]:
    linears = (layer for layer in layers if isinstance(layer, nn.Linear))
    for index, linear in enumerate(linears):
        yield f"{prefix}/fc{index}", linear
