"""Predictive latent decoder: from the latents of masked observations and the actions to latents of whole ones.

A run uses `mlr/fast_decoder.py`, which computes the same with less work.

B batch, T time, D latent width, S tokens, Q tokens with queries, d width of one head.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.shadow import ShadowedLinear
from mlr.config import DecoderConfig, MLRConfig


class Decoder(nn.Module):
    """Transformer over a state token per step, and one of its action if there are any; only states are read out.

    A step's state and action share one position, so the order of the tokens has no meaning and states come first.
    Source: paper, section 3.2.
    """

    def __init__(self, dim: int, seq_len: int, config: DecoderConfig):
        super().__init__()
        self.blocks = nn.ModuleList(TransformerBlock(dim, config) for _ in range(config.depth))
        self.register_buffer("positions", sine_positions(seq_len, dim), persistent=False)

    def forward(self, states: Tensor, actions: Tensor | None) -> Tensor:
        """State latents and embedded actions or None, each [B, T, D] -> predicted state latents [B, T, D]."""
        tokens = self.tokens(states, actions)
        for block in self.blocks:
            tokens = block(tokens)
        return tokens[:, : states.shape[1]]

    def tokens(self, states: Tensor, actions: Tensor | None) -> Tensor:
        """Input of the first block, [B, 2T, D], or [B, T, D] without actions."""
        tokens = states + self.positions
        return tokens if actions is None else torch.cat([tokens, actions + self.positions], dim=1)


class Bottleneck(nn.Module):
    """A decoder of fewer values than the latents have, between two linear maps."""

    def __init__(self, decoder: Decoder, dim: int, width: int):
        super().__init__()
        self.narrow, self.decoder, self.widen = nn.Linear(dim, width), decoder, nn.Linear(width, dim)

    def forward(self, states: Tensor, actions: Any) -> Tensor:
        """State latents [B, T, D] and actions embedded in `width` values or None -> predicted latents [B, T, D]."""
        return self.widen(self.decoder(self.narrow(states).float(), actions)).float()


class TransformerBlock(nn.Module):
    """Pre-norm attention and MLP, each added to its input; full attention, exact GELU, no dropout."""

    def __init__(self, dim: int, config: DecoderConfig):
        super().__init__()
        hidden = int(dim * config.mlp_ratio)
        self.heads = config.heads
        self.ln1 = nn.LayerNorm(dim, eps=config.norm_eps)
        self.qkv = ShadowedLinear(dim, 3 * dim, bias=config.qkv_bias)  # rows are query, key, value
        self.proj = ShadowedLinear(dim, dim)
        self.ln2 = nn.LayerNorm(dim, eps=config.norm_eps)
        self.fc1 = ShadowedLinear(dim, hidden)
        self.fc2 = ShadowedLinear(hidden, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [B, S, D] -> [B, S, D]."""
        return self.add(tokens, self.attention(self.project(tokens)))

    def project(self, tokens: Tensor) -> Tensor:
        """Queries, keys and values [..., 3D] of tokens [..., D]."""
        return self.qkv(self.ln1(tokens))

    def attention(self, qkv: Tensor) -> Tensor:
        """Attention from every token to all, [B, S, 3D] -> [B, S, D]."""
        query, key, value = (split_heads(part, self.heads) for part in qkv.chunk(3, dim=-1))  # [B, heads, S, d]
        return self.proj(join_heads(attention_weights(query, key, key.shape[-1]) @ value))

    def add(self, tokens: Tensor, attended: Tensor) -> Tensor:
        """Adds attention's result to the tokens, both [B, S, D], and then the MLP's."""
        tokens = tokens + attended
        return tokens + self.fc2(F.gelu(self.fc1(self.ln2(tokens))))


def attention_weights(query: Tensor, key: Tensor, width: int) -> Tensor:
    """Weights [B, heads, Q, S] of the keys for each query, of heads that are `width` wide."""
    # Written out: few tokens, heads wider than the fused kernels take, and those are not deterministic backwards.
    scores = query @ key.transpose(-2, -1) * width**-0.5
    return scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """[B, S, D] -> [B, heads, S, d]."""
    return tokens.unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(values: Tensor) -> Tensor:
    """[B, heads, Q, d] -> [B, Q, D]."""
    return values.transpose(1, 2).flatten(2)


def sine_positions(seq_len: int, dim: int) -> Tensor:
    """Position table by step, float32 [T, D]: column 2i is sin(t * 10000^(-2i/D)), column 2i+1 the cosine.

    Source: "Attention Is All You Need", section 3.5.
    """
    frequency = 10000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angle = torch.arange(seq_len, dtype=torch.float64)[:, None] * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1).float()


def reads_actions(config: MLRConfig) -> bool:
    """Tells whether actions reach the decoded states: without a block no action token does."""
    return config.action_tokens and config.decoder.depth > 0
