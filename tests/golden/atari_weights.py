"""The reference model: our modules, filled with the weights and noise of a folder of reference files.

Sizes come from the shapes of the arrays. What leaves no trace in a shape is named here:
strides, the value range, one attention head, the LayerNorm epsilon and the optimiser's numbers.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from atari.config import AgentConfig, EncoderConfig
from atari.networks import ActionEmbedding, DuelingHead, Encoder, HeadProjector, NoisyLinear, signed_sqrt
from mlr.config import DecoderConfig

STRIDES = (4, 2, 1)
V_MIN, V_MAX = -10.0, 10.0
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


def load_model(folder: Path) -> ReferenceModel:
    """Builds the model of the folder's only `weights_*.npz`; decoder blocks are filled later, by `fill_blocks`."""
    arrays = load_arrays(folder)
    agent = agent_config(arrays)
    latent, actions = arrays["act_embed.w"].shape
    side = image_size(agent.encoder, latent)
    return fill_model(
        arrays,
        encoder=Encoder(agent.encoder, arrays["conv1.w"].shape[1], side),
        head=DuelingHead(latent, actions, agent),
        predictor=nn.Linear(*reversed(arrays["pred.w"].shape)),
        action_embedding=ActionEmbedding(actions, latent),
    )


def load_arrays(folder: Path) -> dict[str, np.ndarray]:
    (path,) = sorted(folder.glob("weights_*.npz"))
    with np.load(path) as file:
        return dict(file)


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
    assert encoder.latent_dim == latent, f"strides {STRIDES} give {encoder.latent_dim} values, the arrays have {latent}"
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


def noise_draws(arrays: Mapping[str, np.ndarray]) -> dict[int, Tensor]:
    """Returns the head's noise factors [noise_size] of every draw k."""
    draws = sorted({int(match[1]) for name in arrays if (match := re.match(r"noise(\d+)\.", name))})
    return {k: signed_sqrt(torch.from_numpy(np.concatenate(raw_noise(arrays, k)))) for k in draws}


def raw_noise(arrays: Mapping[str, np.ndarray], k: int) -> list[np.ndarray]:
    return [arrays[f"noise{k}.{layer}.{side}"] for layer in HEAD_LAYERS for side in ("raw_in", "raw_out")]


def encoder_config(arrays: Mapping[str, np.ndarray]) -> EncoderConfig:
    weights = [arrays[name] for name in sorted(arrays) if re.fullmatch(r"conv\d+\.w", name)]
    return EncoderConfig(
        channels=[len(weight) for weight in weights],
        kernels=[weight.shape[-1] for weight in weights],
        strides=list(STRIDES[: len(weights)]),
    )


def image_size(config: EncoderConfig, latent: int) -> int:
    """Returns the smallest side of an image whose last map has `latent` values."""
    side = round((latent / config.channels[-1]) ** 0.5)
    for kernel, stride in zip(reversed(config.kernels), reversed(config.strides), strict=True):
        side = (side - 1) * stride + kernel
    return side


def decoder_config(arrays: Mapping[str, np.ndarray]) -> DecoderConfig:
    depth = len([name for name in arrays if re.fullmatch(r"blk\d+\.qkv\.w", name)])
    latent = len(arrays["act_embed.w"])
    return DecoderConfig(
        depth=depth,
        heads=1,
        mlp_ratio=len(arrays["blk0.fc1.b"]) / latent if depth else 2.0,
        qkv_bias="blk0.qkv.b" in arrays,
        norm_eps=1e-5,
    )


def agent_config(arrays: Mapping[str, np.ndarray]) -> AgentConfig:
    """The agent of these weights; what the arrays do not say is the paper setting's value, n_step and clip are g's."""
    return AgentConfig(
        encoder=encoder_config(arrays),
        hidden=len(arrays["head.val_hidden.b_mu"]),
        atoms=len(arrays["head.val_out.b_mu"]),
        v_min=V_MIN,
        v_max=V_MAX,
        noisy_sigma0=0.1,
        head_gradient_scale=0.5**0.5,
        discount=0.99,
        n_step=3,
        n_step_done="one_step",
        batch_size=2,
        learning_rate=1e-4,
        adam_eps=1.5e-4,
        adam_beta1=0.9,
        adam_beta2=0.999,
        clip_norm=10.0,
        kl_floor=1e-6,
        kl_ceiling=1e6,
        epsilon_initial=1.0,
        epsilon_final=0.0,
        epsilon_start=0,
        epsilon_steps=1,
    )


def sum_l2(values: Tensor) -> tuple[float, float]:
    values = values.detach().double()
    return float(values.sum()), float(values.norm())
