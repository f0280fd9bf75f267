"""Predictive latent decoder: from the latents of masked observations and the actions to latents of whole ones.

B batch, T time, D latent width, S tokens, Q tokens that are read out, d width of one head.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlr.config import DecoderConfig, MLRConfig, require


def reads_actions(config: MLRConfig) -> bool:
    """Whether actions have a say in the decoded states: without a block no action token reaches them."""
    return config.action_tokens and config.decoder.depth > 0


def sine_positions(seq_len: int, dim: int) -> Tensor:
    """Position table by step, float32 [T, D]: column 2i is sin(t * 10000^(-2i/D)), column 2i+1 the cosine.

    Raises ConfigError for an odd `dim`. Source: "Attention Is All You Need", section 3.5.
    """
    require(dim % 2 == 0, f"the latent has {dim} values: sine positions need an even number")
    frequency = 10000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angle = torch.arange(seq_len, dtype=torch.float64)[:, None] * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1).float()


class TransformerBlock(nn.Module):
    """Pre-norm attention and MLP, each added to its input; full attention, exact GELU, no dropout."""

    def __init__(self, dim: int, config: DecoderConfig):
        super().__init__()
        require(dim % config.heads == 0, f"mlr.decoder.heads={config.heads} does not divide the latent's {dim} values")
        hidden = int(dim * config.mlp_ratio)
        self.heads = config.heads
        self.ln1 = nn.LayerNorm(dim, eps=config.norm_eps)
        self.qkv = nn.Linear(dim, 3 * dim, bias=config.qkv_bias)  # rows are query, key, value
        self.proj = nn.Linear(dim, dim)
        self.ln2 = nn.LayerNorm(dim, eps=config.norm_eps)
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, tokens: Tensor, queries: int | None) -> Tensor:
        """Tokens [B, S, D] -> [B, Q, D]: all of them, or the first `queries`, which still attend to all.

        What is left out for the other tokens (query, projection, MLP) cannot reach the first ones: the result is exact.
        """
        read_out = tokens[:, :queries]
        read_out = read_out + self.attention_branch(tokens, queries)
        return read_out + self.fc2(F.gelu(self.fc1(self.ln2(read_out))))

    def attention_branch(self, tokens: Tensor, queries: int | None) -> Tensor:
        """What attention adds to the first `queries` tokens: [B, S, D] -> [B, Q, D]."""
        dim = tokens.shape[-1]
        normed = self.ln1(tokens)
        # Two products with parts of one matrix. Split, not two slices: its backward pass writes the gradient once.
        query_weight, key_value_weight = self.qkv.weight.split([dim, 2 * dim])
        query_bias, key_value_bias = (None, None) if self.qkv.bias is None else self.qkv.bias.split([dim, 2 * dim])
        query = self._split_heads(F.linear(normed[:, :queries], query_weight, query_bias))  # [B, heads, Q, d]
        key, value = F.linear(normed, key_value_weight, key_value_bias).chunk(2, dim=-1)
        key, value = self._split_heads(key), self._split_heads(value)  # [B, heads, S, d]
        # Written out: few tokens, heads wider than the fused kernels take, and those are not deterministic backwards.
        attention = (query @ key.transpose(-2, -1) * key.shape[-1] ** -0.5).softmax(dim=-1, dtype=tokens.dtype)
        return self.proj((attention @ value).transpose(1, 2).flatten(2))

    def _split_heads(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)


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
        steps = states.shape[1]
        tokens = states + self.positions
        if actions is not None:
            tokens = torch.cat([tokens, actions + self.positions], dim=1)  # [B, 2T, D]
        last = len(self.blocks) - 1
        for index, block in enumerate(self.blocks):
            tokens = block(tokens, queries=steps if index == last else None)
        return tokens[:, :steps]
