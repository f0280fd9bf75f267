"""The reference agent: ours, filled with the starting state of a folder of DMControl reference files, and its batch.

Sizes come from the shapes of the arrays, everything else from `configs/`: the reference has the released rates.
What leaves no trace in a shape is named here: a first stride of 2, and one attention head, which gives way to a scalar
`size/heads` of the state.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dmcontrol.agent import SACAgent
from dmcontrol.config import DMControlConfig, EncoderConfig, map_sides, validate
from dmcontrol.networks import PixelEncoder
from harness.command_line import Command
from mlr.objective import MLR
from tests.golden.check import load, setting

BLOCK_LAYERS = {"ln1": "ln1", "qkv": "qkv", "proj": "proj", "ln2": "ln2", "mlp0": "fc1", "mlp1": "fc2"}
UNUSED = "mlr/unused/"  # exists in the reference, influences nothing

Arrays = Mapping[str, np.ndarray]


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

    def windows(self, batch_size: int, generator: torch.Generator, fields: tuple[str, ...]) -> "Batch":
        return self


@dataclass
class Reference:
    agent: SACAgent
    batch: Batch
    parameters: dict[str, nn.Parameter]  # ours by the reference's names


def load_reference(folder: Path, aux: str = "mlr", *overrides: str) -> Reference:
    """Our agent in the reference's starting state, with the reference's values in place of its random draws."""
    state, batch = load(folder / "state.npz"), make_batch(load(folder / "batch.npz"))
    agent = SACAgent(make_config(state, batch, aux, *overrides), batch.action.shape[1], torch.device("cpu"))
    parameters = dict(named_parameters(agent))
    for name, parameter in parameters.items():
        values = torch.from_numpy(floats(state, name))
        assert values.shape == parameter.shape, f"{name}: {tuple(values.shape)}, ours {tuple(parameter.shape)}"
        with torch.no_grad():
            parameter.copy_(values)
    agent._cropped = lambda pixels, purpose: pixels
    agent._noise = lambda like, purpose: batch.noise[purpose][: len(like)]
    if agent.auxiliary is not None:
        agent.auxiliary.mask = lambda: batch.hidden
        agent.auxiliary.augment_masked = lambda frames: agent._centre_crop(frames).float()
        agent.auxiliary.augment_target = agent.auxiliary.augment_masked
    return Reference(agent, batch, parameters)


def floats(state: Arrays, name: str) -> np.ndarray:
    """An array of the state; the big matrices are stored as integers."""
    values = state[name]
    return values.astype(np.float32) * np.float32(state["fc_scale"]) if values.dtype == np.int8 else values


def make_batch(arrays: Arrays) -> Batch:
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
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


def make_config(state: Arrays, batch: Batch, aux: str, *overrides: str) -> DMControlConfig:
    """The released configuration with the sizes of the arrays."""
    image_size, crop_size = batch.frames.shape[-1], batch.obs.shape[-1]
    encoder = encoder_config(state, crop_size)
    sizes = {
        "environment.image_size": image_size,
        "environment.frame_stack": batch.obs.shape[1] // 3,
        "agent.crop_size": crop_size,
        "agent.encoder.filters": encoder.filters,
        "agent.encoder.strides": encoder.strides,
        "agent.encoder.latent": encoder.latent,
        "agent.hidden": len(state["critic/q1/fc0/bias"]),
        "mlr.seq_len": len(batch.frames),
        "mlr.mask.patch_size": image_size // batch.hidden.shape[-1],
        "mlr.mask.cube_depth": 1,
        "mlr.decoder.depth": count(state, "mlr/block{}/qkv/weight"),
        "mlr.decoder.heads": int(setting(state, "heads", 1)),
        "mlr_agent.projection": len(state["mlr/projector/fc0/bias"]),
    }
    if sizes["mlr.decoder.depth"]:
        sizes["mlr.decoder.mlp_ratio"] = len(state["mlr/block0/mlp0/bias"]) / encoder.latent
        sizes["mlr.decoder.qkv_bias"] = "mlr/block0/qkv/bias" in state
    settings = [f"{key}={value}".replace(" ", "") for key, value in sizes.items()]
    command = Command("dmcontrol", DMControlConfig, validate)
    return command.resolve(["task=finger_spin", f"aux={aux}", *settings, *overrides])[1]


def encoder_config(state: Arrays, crop_size: int) -> EncoderConfig:
    """The usual strides, or others of 1 and 2 whose last map has as many values as the linear layer takes."""
    latent, features = state["critic/encoder/fc/weight"].shape
    filters, layers = len(state["critic/encoder/conv0/bias"]), count(state, "critic/encoder/conv{}/weight")
    for strides in ((2, *[1] * (layers - 1)), *product((2, 1), repeat=layers)):
        config = EncoderConfig(filters, list(strides), latent)
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
    yield from encoder_layers("critic/encoder", agent.encoder)
    yield from encoder_layers("critic_target/encoder", agent.target_encoder)
    yield from (("actor/encoder/fc", agent.actor.latent.fc), ("actor/encoder/ln", agent.actor.latent.ln))
    yield from mlp_layers("actor/policy", agent.actor.policy)
    for prefix, heads in (("critic", agent.q_heads), ("critic_target", agent.target_q_heads)):
        yield from mlp_layers(f"{prefix}/q1", heads.q1)
        yield from mlp_layers(f"{prefix}/q2", heads.q2)
    if agent.auxiliary is not None:
        yield from objective_layers(agent.auxiliary)


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
