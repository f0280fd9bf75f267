"""Layers that several parts share, and initial weights.

`N` any number of inputs, `S` tokens, `D` their width.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlr.config import DecoderConfig
from mlr.decoder import TransformerBlock
from mwm.config import ViTConfig

NORM_EPS = 1e-6  # transformer layer norms; released code
TOKEN_STD = 0.02  # initial values of learned tokens
OUTPUT_GAIN = math.sqrt(0.1)  # initial weights of an MLP's output layer


class Transformer(nn.Module):
    """Pre-norm blocks of attention and MLP with a norm behind them: tokens [N, S, D] -> [N, S, D]."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        block = DecoderConfig(config.blocks, config.heads, config.mlp_ratio, qkv_bias=True, norm_eps=NORM_EPS, width=0)
        self.blocks = nn.ModuleList(TransformerBlock(config.width, block) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.width, eps=NORM_EPS)

    def forward(self, tokens: Tensor) -> Tensor:
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)


class MLP(nn.Module):
    """Linear layers with ELU, and a linear output: [..., inputs] -> [..., outputs]."""

    def __init__(self, inputs: int, widths: list[int], outputs: int):
        super().__init__()
        sizes = [inputs, *widths]
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in zip(sizes, sizes[1:], strict=False))
        self.out = nn.Linear(sizes[-1], outputs)

    def hidden(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = F.elu(layer(x))
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.hidden(x))


@torch.no_grad()
def initialise(module: nn.Module) -> None:
    """Draws matrices Glorot uniform, an MLP's output smaller, and tokens normal; biases are 0. Source: released code.

    Layer norms keep torch's ones and zeros.
    """
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    for layer in module.modules():
        if isinstance(layer, MLP):
            nn.init.xavier_uniform_(layer.out.weight, gain=OUTPUT_GAIN)
    for name, parameter in module.named_parameters():
        if name.endswith("token"):
            nn.init.normal_(parameter, std=TOKEN_STD)
