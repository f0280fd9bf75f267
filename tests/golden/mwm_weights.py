"""Our modules of MWM, with the sizes and the weights of a folder of reference files.

`NAME` of `w:NAME` is module / layer / weight; matrices are stored transposed, convolutions as [height, width, in, out].
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mwm.config import (
    AdamConfig,
    BatchConfig,
    BehaviourConfig,
    KLConfig,
    MWMSection,
    OptimizersConfig,
    PixelsConfig,
    RSSMConfig,
    ScheduleConfig,
    ViTConfig,
)
from tests.golden.check import Arrays

# Layers of the reference, module by module, and ours.
LAYERS = (
    (r"early_conv_(\d)", lambda found: f"stem.{2 * int(found[1])}"),
    (r"early_conv_proj", "stem.6"),
    (r"encoder_patch_embed/projection", "stem.0"),
    (r"cls_token/cls_token", "summary_token"),
    (r"mask_token/mask_token", "mask_token"),
    (r"vit_(?:en|de)coder_block_(\d+)/", r"transformer.blocks.\1."),
    (r"vit_(?:en|de)coder_norm", "transformer.norm"),
    (r"vit_decoder_pred", "pixels"),
    (r"vit_reward_pred", "reward"),
    (r"(?:en|de)coder_embed", "embed"),
    (r"norm([12])", r"ln\1"),
    (r"(?:attn|mlp)/", ""),
    (r"cell/norm", "cell_norm"),
    (r"cell/layer", "cell"),
    (r"dense(\d+)", r"layers.\1"),
    (r"out/(out|std)", r"\1"),
    (r"(kernel|gamma|scale)$", "weight"),
    (r"(beta|offset)$", "bias"),
)


def make_section(sizes: Mapping, **changes) -> MWMSection:
    """The released settings with the sizes of a `sizes.json`; `changes` are fields of the section."""

    def vit(name: str) -> ViTConfig:
        return ViTConfig(**sizes[name], mlp_ratio=4.0)

    def adam(rate: float, decayed: str, warmup: int = 0) -> AdamConfig:
        return AdamConfig(
            learning_rate=rate, warmup_updates=warmup, beta1=0.9, beta2=0.999, eps=1e-5, clip_norm=100.0,
            weight_decay=1e-6, decayed=decayed,
        )  # fmt: skip

    values = {
        "world_model": "mwm",
        "pixels": PixelsConfig(depth=4),
        "stem": "conv",
        "mask_ratio": 0.75,
        "reward_prediction": True,
        "reward_head": "last_patch",
        "actor_gradient": "released",
        "adam_eps": "tensorflow",
        "update_at": "first",
        "discount_head": False,
        **{name: vit(name) for name in ("encoder", "decoder", "pool", "unpool")},
        "rssm": RSSMConfig(**sizes["rssm"], action_inputs=50),
        "kl": KLConfig(balance=0.8, free=0.01, largest=100.0, scale=1.0),
        **{f"{name}_mlp": sizes[name] for name in ("reward", "actor", "critic")},
        "discount_mlp": sizes.get("discount", sizes["reward"]),
        "behaviour": BehaviourConfig(
            horizon=sizes["horizon"], discount=0.99, lambda_return=0.95, entropy_scale=1e-4, min_std=0.1,
            reward_momentum=0.99, target_every=100,
        ),
        "optimizers": OptimizersConfig(
            autoencoder=adam(3e-4, "all", 2500),
            dynamics=adam(3e-4, "matrices"),
            actor=adam(1e-4, "matrices"),
            critic=adam(1e-4, "matrices"),
        ),
        "batch": BatchConfig(pictures=6, windows=2),
        "schedule": ScheduleConfig(pretraining=1, every=5),
    }  # fmt: skip
    return MWMSection(**values | changes)


def read_sizes(folder: Path) -> dict:
    return json.loads((folder / "sizes.json").read_text())


def weights_of(arrays: Arrays, module: str, mark: str = "w") -> dict[str, Tensor]:
    """Arrays `mark:module/...` under the names of our module and in its layout."""
    prefix = f"{mark}:{module}/"
    named = {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
    return {our_name(module, key): our_layout(value) for key, value in named.items()}


def our_name(module: str, name: str) -> str:
    if module == "unpool":
        name = name.replace("vit_decoder_pred", "predict")
    for pattern, replacement in LAYERS:
        name = re.sub(pattern, replacement, name)
    name = name.replace("/", ".")
    return f"mlp.{name}" if module == "actor" and not name.startswith("std") else name


def our_layout(array: np.ndarray) -> Tensor:
    if array.ndim == 4:
        array = array.transpose(3, 2, 0, 1)
    elif array.ndim == 3:
        array = array.reshape(-1)  # a learned token
    return torch.from_numpy(np.ascontiguousarray(array.T if array.ndim == 2 else array))


def fill(module: nn.Module, arrays: Arrays, name: str, mark: str = "w") -> nn.Module:
    """Loads the weights of the reference's module `name`; all must be there, and no more."""
    module.load_state_dict(weights_of(arrays, name, mark))
    return module


def pictures_of(images: np.ndarray) -> Tensor:
    """[..., P, P, 3] -> [..., 3, P, P]."""
    return torch.from_numpy(images).movedim(-1, -3).contiguous()


def last_axis_channels(pictures: Tensor) -> Tensor:
    return pictures.movedim(-3, -1)


def chosen(indices: np.ndarray, classes: int) -> Tensor:
    """Noise [..., variables, classes] with which the recorded class of each variable is the largest."""
    return 1e9 * torch.nn.functional.one_hot(torch.from_numpy(indices).long(), classes).float()


class Recorded:
    """Stands in for random draws: gives recorded noise in order."""

    def __init__(self, *noise: Tensor):
        self._left = list(noise)

    def __call__(self, shape: tuple[int, ...]) -> Tensor:
        noise = self._left.pop(0)
        assert noise.shape == shape, f"a draw of {shape}, recorded {tuple(noise.shape)}"
        return noise

    @property
    def left(self) -> int:
        return len(self._left)


def latent_draws(indices: np.ndarray, classes: int) -> Recorded:
    """Draws of recorded classes [T, N, variables], step after step."""
    return Recorded(*chosen(indices, classes))


def action_draws(uniforms: np.ndarray) -> Recorded:
    """Draws of recorded uniform numbers float64 [T, N, A]."""
    return Recorded(*torch.from_numpy(uniforms))
