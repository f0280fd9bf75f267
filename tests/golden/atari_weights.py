"""The reference model: our modules, filled with the weights and noise of a folder of reference files.

Sizes come from the shapes of the arrays, strides from file a. What leaves no trace in a shape is named here: the value
range, one attention head and the discount, which give way to a scalar `size/<name>` of the file; the LayerNorm epsilon
and the optimiser's numbers.
"""

import math
import re
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atari.config import AgentConfig, EncoderConfig, map_sides
from atari.networks import ActionEmbedding, DuelingHead, Encoder, HeadProjector, NoisyLinear, signed_sqrt
from mlr.config import DecoderConfig
from tests.golden.check import Arrays, in_order, is_setting, load, setting

STRIDES = (4, 2, 1)  # the usual ones; 1 for every further convolution
V_MIN, V_MAX, DISCOUNT = -10.0, 10.0, 0.99
KL_FLOOR, KL_CEILING = 1e-6, 1e6
HEAD_LAYERS = {  # reference name: ours, in the order of the noise draws
    "adv_hidden": "advantage_hidden",
    "adv_out": "advantage_out",
    "val_hidden": "value_hidden",
    "val_out": "value_out",
}
NOISY_PARAMETERS = {"w_mu": "mean.weight", "b_mu": "mean.bias", "w_sigma": "weight_sigma", "b_sigma": "bias_sigma"}
LETTERS = {"w": "weight", "b": "bias"}


@dataclass
class ReferenceModel:
    """Modules that hold the reference weights; `noise[k]` are the head's factors of draw k.

    `parameters` maps every reference name to our parameter. The reference's advantage bias is not there: it cancels in
    the dueling mean, so we do not build it, and its gradient is zero.
    """

    agent: AgentConfig
    decoder_config: DecoderConfig
    encoder: Encoder
    head: DuelingHead
    predictor: nn.Linear
    action_embedding: ActionEmbedding
    noise: dict[int, Tensor]
    arrays: dict[str, np.ndarray]
    parameters: dict[str, nn.Parameter]
    projector: HeadProjector = field(init=False)
    update: int = 0  # number of the update that runs, of those recorded in a row

    def __post_init__(self):
        self.projector = HeadProjector(self.head)

    def fill_blocks(self, blocks: nn.ModuleList) -> None:
        """Gives decoder blocks the reference weights, in place, and enters them into `parameters`."""
        for index, block in enumerate(blocks):
            prefix = f"blk{index}."
            for name in [name for name in self.arrays if name.startswith(prefix)]:
                layer, letter = name.removeprefix(prefix).split(".")
                self.adopt(name, block.get_parameter(f"{layer}.{LETTERS[letter]}"))

    def gradient_sum_l2(self, names: np.ndarray) -> np.ndarray:
        """Returns (sum, L2) of the gradient of each named parameter, (0, 0) where there is none: float64 [names, 2]."""
        gradients = [self.gradient(str(name)) for name in names]
        return np.array([(0.0, 0.0) if gradient is None else sum_l2(gradient) for gradient in gradients])

    def gradient(self, name: str) -> Tensor | None:
        parameter = self.parameters.get(name)
        return None if parameter is None else parameter.grad

    def parameter_sum_l2(self, names: np.ndarray) -> np.ndarray:
        """Returns (sum, L2) of each named parameter, of the stored array where we have none: float64 [names, 2]."""
        stored = ((name, torch.from_numpy(self.arrays[name].astype(np.float32))) for name in map(str, names))
        return np.array([sum_l2(self.parameters.get(name, array)) for name, array in stored])

    def gradient_norm(self, *prefixes: str) -> float:
        """Returns the L2 norm over the gradients of all parameters whose reference name starts with a prefix."""
        named = [parameter for name, parameter in self.parameters.items() if name.startswith(prefixes)]
        return float(sum(p.grad.double().square().sum() for p in named if p.grad is not None) ** 0.5)

    def adopt(self, name: str, parameter: nn.Parameter) -> None:
        with torch.no_grad():
            values = torch.from_numpy(self.arrays[name].astype(np.float32))
            assert values.shape == parameter.shape, f"{name}: {tuple(values.shape)}, ours {tuple(parameter.shape)}"
            parameter.copy_(values)
        self.parameters[name] = parameter


def load_model(path: Path) -> ReferenceModel:
    """Builds the model of the weights beside a file; decoder blocks are filled later, by `fill_blocks`."""
    arrays = load_arrays(path)
    agent = agent_config(arrays)
    latent, actions = arrays["act_embed.w"].shape
    side = smallest_image(agent.encoder, latent)
    return fill_model(
        arrays,
        encoder=Encoder(agent.encoder, arrays["conv1.w"].shape[1], side),
        head=DuelingHead(latent, actions, agent),
        predictor=nn.Linear(*reversed(arrays["pred.w"].shape)),
        action_embedding=ActionEmbedding(actions, latent),
    )


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """The weights that a file's values were computed with, and the settings of both."""
    arrays = load(beside(path, "weights"))
    own = {key: value for key, value in load(path).items() if is_setting(key)}
    return {"size/strides": strides(path, arrays)} | arrays | own


def beside(path: Path, kind: str) -> Path:
    """The file of this kind in the same folder; of several the one whose name shares most words with this one."""
    words = set(path.stem.split("_"))
    paths = sorted(path.parent.glob(f"{kind}_*.npz"))
    if not paths:
        raise FileNotFoundError(f"{path.parent} has no file {kind}_*.npz")
    return max(paths, key=lambda other: (len(words & {*other.stem.split("_")}), -len({*other.stem.split("_")} - words)))


def strides(path: Path, arrays: Arrays) -> np.ndarray:
    """The strides that lead from a's images nearest to its maps; without such a file the usual ones."""
    layers = convolutions(arrays)
    usual = (STRIDES + (1,) * len(layers))[: len(layers)]
    if not any(path.parent.glob("a_*.npz")):
        return np.array(usual)
    recorded = load(beside(path, "a"))
    pixels, expected = (torch.from_numpy(recorded[name][:1]) for name in ("obs", "conv"))
    kernels = [weight.shape[-1] for weight, _ in layers]
    errors = {}
    for candidate in product(*(range(1, kernel + 1) for kernel in kernels)):
        # The channels play no part.
        config = EncoderConfig("conv", kernels, kernels, list(candidate), padding="valid", blocks=0)
        if map_sides(config, pixels.shape[-1])[-1] == expected.shape[-1]:
            errors[candidate] = float((feature_maps(pixels / 255, layers, candidate) - expected).abs().max())
    return np.array(min(errors, key=errors.get, default=usual))


def feature_maps(maps: Tensor, layers: list[tuple[Tensor, Tensor]], strides: tuple[int, ...]) -> Tensor:
    for (weight, bias), stride in zip(layers, strides, strict=True):
        maps = F.conv2d(maps, weight, bias, stride).relu()
    return maps


def convolutions(arrays: Arrays) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of each convolution."""
    names = [name.removesuffix(".w") for name in in_order(arrays) if re.fullmatch(r"conv\d+\.w", name)]
    return [tuple(torch.from_numpy(arrays[f"{name}.{kind}"]).float() for kind in "wb") for name in names]


def fill_model(
    arrays: dict[str, np.ndarray],
    *,
    encoder: Encoder,
    head: DuelingHead,
    predictor: nn.Linear,
    action_embedding: ActionEmbedding,
) -> ReferenceModel:
    """Gives modules, an agent's for example, the reference weights, in place."""
    latent = len(arrays["act_embed.w"])
    assert encoder.latent_dim == latent, f"the encoder gives {encoder.latent_dim} values, the arrays have {latent}"
    model = ReferenceModel(
        agent=agent_config(arrays),
        decoder_config=decoder_config(arrays),
        encoder=encoder,
        head=head,
        predictor=predictor,
        action_embedding=action_embedding,
        noise=noise_draws(arrays),
        arrays=arrays,
        parameters={},
    )
    for name, parameter in parameters_outside_the_blocks(model):
        model.adopt(name, parameter)
    return model


def parameters_outside_the_blocks(model: ReferenceModel):
    """Yields (reference name, our parameter) of all but the decoder blocks."""
    for name, (convolution, _) in model.encoder.stages.items():
        yield f"{name}.w", convolution.weight
        yield f"{name}.b", convolution.bias
    for theirs, ours in HEAD_LAYERS.items():
        layer: NoisyLinear = getattr(model.head, ours)
        for short, path in NOISY_PARAMETERS.items():
            yield f"head.{theirs}.{short}", layer.get_parameter(path)
    for name, linear in (("pred", model.predictor), ("act_embed", model.action_embedding.linear)):
        yield f"{name}.w", linear.weight
        yield f"{name}.b", linear.bias


def noise_draws(arrays: Arrays) -> dict[int, Tensor]:
    """Returns the head's noise factors [noise_size] of every draw k."""
    draws = sorted({int(match[1]) for name in arrays if (match := re.match(r"noise(\d+)\.", name))})
    return {k: signed_sqrt(torch.from_numpy(np.concatenate(raw_noise(arrays, k)))) for k in draws}


def raw_noise(arrays: Arrays, k: int) -> list[np.ndarray]:
    return [arrays[f"noise{k}.{layer}.{side}"] for layer in HEAD_LAYERS for side in ("raw_in", "raw_out")]


def encoder_config(arrays: Arrays) -> EncoderConfig:
    weights = [weight for weight, _ in convolutions(arrays)]
    return EncoderConfig(
        channels=[len(weight) for weight in weights],
        kernels=[weight.shape[-1] for weight in weights],
        strides=arrays["size/strides"].tolist(),
        kind="conv",
        padding="valid",
        blocks=0,
    )


def smallest_image(config: EncoderConfig, latent: int) -> int:
    """The smallest side of an image whose last map has `latent` values."""
    side = round((latent / config.channels[-1]) ** 0.5)
    for kernel, stride in zip(reversed(config.kernels), reversed(config.strides), strict=True):
        side = (side - 1) * stride + kernel
    return side


def decoder_config(arrays: Arrays) -> DecoderConfig:
    depth = len([name for name in arrays if re.fullmatch(r"blk\d+\.qkv\.w", name)])
    latent, hidden = len(arrays["act_embed.w"]), len(arrays["blk0.fc1.b"])
    return DecoderConfig(
        depth=depth,
        heads=int(setting(arrays, "heads", 1)),
        mlp_ratio=math.nextafter(hidden / latent, math.inf),  # the product with the latent is cut
        qkv_bias="blk0.qkv.b" in arrays,
        norm_eps=1e-5,
        width=0,
    )


def agent_config(arrays: Arrays) -> AgentConfig:
    """The agent of these weights; what the arrays do not say is the paper setting's value, n_step and clip are g's."""
    return AgentConfig(
        encoder=encoder_config(arrays),
        hidden=len(arrays["head.val_hidden.b_mu"]),
        atoms=len(arrays["head.val_out.b_mu"]),
        v_min=setting(arrays, "v_min", V_MIN),
        v_max=setting(arrays, "v_max", V_MAX),
        noisy_sigma0=0.1,
        head_gradient_scale=0.5**0.5,
        discount=setting(arrays, "discount", DISCOUNT),
        n_step=3,
        n_step_done="one_step",
        n_step_state="after",
        n_step_initial=None,
        discount_initial=None,
        anneal_updates=0,
        head="two_streams",
        init="torch",
        noisy=True,
        weight_decay=0.0,
        target_tau=1.0,
        act_with="online",
        next_views=2,
        batch_size=2,
        learning_rate=setting(arrays, "learning_rate", 1e-4),
        adam_eps=setting(arrays, "adam_eps", 1.5e-4),
        adam_beta1=0.9,
        adam_beta2=0.999,
        clip_norm=10.0,
        kl_floor=setting(arrays, "kl_floor", KL_FLOOR),
        kl_ceiling=setting(arrays, "kl_ceiling", KL_CEILING),
        epsilon_initial=1.0,
        epsilon_final=0.0,
        epsilon_start=0,
        epsilon_steps=1,
    )


def sum_l2(values: Tensor) -> tuple[float, float]:
    values = values.detach().double()
    return float(values.sum()), float(values.norm())
