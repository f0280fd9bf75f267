"""Predictive latent decoder: from the latents of masked observations and the actions to latents of whole ones.

B batch, T time, D latent width, S tokens, Q tokens that are read out, d width of one head, A kinds of actions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.config import require
from mlr.config import DecoderConfig, MLRConfig


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

    def forward(self, tokens: Tensor, queries: int | None, qkv: Tensor | None = None) -> Tensor:
        """Tokens [B, S, D] -> [B, Q, D]: all of them, or the first `queries`, which still attend to all.

        What is left out for the other tokens (query, projection, MLP) cannot reach the first ones: the result is exact.
        `qkv` [B, S, 3D] is `project(tokens)` if that is known already; it is read where all tokens are wanted.
        """
        read_out = tokens[:, :queries]
        read_out = read_out + self.attention_branch(tokens, queries, qkv)
        return read_out + self.fc2(F.gelu(self.fc1(self.ln2(read_out))))

    def project(self, tokens: Tensor) -> Tensor:
        """Queries, keys and values [..., 3D] of tokens [..., D]."""
        return self.qkv(self.ln1(tokens))

    def attention_branch(self, tokens: Tensor, queries: int | None, qkv: Tensor | None = None) -> Tensor:
        """What attention adds to the first `queries` tokens: [B, S, D] -> [B, Q, D]."""
        if queries is not None and queries < tokens.shape[1]:
            return self.proj(self._attend_from(self.ln1(tokens), queries))
        qkv = self.project(tokens) if qkv is None else qkv
        query, key, value = map(self._split_heads, qkv.chunk(3, dim=-1))  # [B, heads, S, d]
        return self.proj(_join_heads(_attention(query, key, key.shape[-1]) @ value))

    def _attend_from(self, normed: Tensor, queries: int) -> Tensor:
        """Attention from the first `queries` of the normed tokens to all: [B, S, D] -> [B, Q, D].

        Multiplied in the other order, q (n Wk')' = (q Wk) n' and a (n Wv') = (a n) Wv': then the products with weights
        have Q rows a sequence instead of S. A bias of the keys adds the same to all scores of a query and leaves the
        softmax as it is.
        """
        dim = normed.shape[-1]
        query_weight, key_weight, value_weight = self.qkv.weight.split(dim)
        query_bias, _, value_bias = (None,) * 3 if self.qkv.bias is None else self.qkv.bias.split(dim)
        query = self._split_heads(F.linear(normed[:, :queries], query_weight, query_bias))  # [B, heads, Q, d]
        key_weight, value_weight = (weight.unflatten(0, (self.heads, -1)) for weight in (key_weight, value_weight))
        every = normed.unsqueeze(1)  # [B, 1, S, D]
        asked = torch.einsum("bhqd,hde->bhqe", query, key_weight)
        heard = _attention(asked, every, query.shape[-1]) @ every  # [B, heads, Q, D]
        mixed = _join_heads(torch.einsum("bhqe,hde->bhqd", heard, value_weight))
        return mixed if value_bias is None else mixed + value_bias

    def _split_heads(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def _join_heads(values: Tensor) -> Tensor:
    """[B, heads, Q, d] -> [B, Q, D]."""
    return values.transpose(1, 2).flatten(2)


def _attention(query: Tensor, key: Tensor, width: int) -> Tensor:
    """Weights [B, heads, Q, S] of the keys for each query, whose heads are `width` wide."""
    # Written out: few tokens, heads wider than the fused kernels take, and those are not deterministic backwards.
    scores = query @ key.transpose(-2, -1) * width**-0.5
    return scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))


class Decoder(nn.Module):
    """Transformer over a state token per step, and one of its action if there are any; only states are read out.

    A step's state and action share one position, so the order of the tokens has no meaning and states come first.
    Source: paper, section 3.2.
    """

    def __init__(self, dim: int, seq_len: int, config: DecoderConfig):
        super().__init__()
        self.blocks = nn.ModuleList(TransformerBlock(dim, config) for _ in range(config.depth))
        self.register_buffer("positions", sine_positions(seq_len, dim), persistent=False)

    def forward(self, states: Tensor, actions: "Tensor | Chosen | None") -> Tensor:
        """State latents and embedded actions or None, each [B, T, D] -> predicted state latents [B, T, D]."""
        steps = states.shape[1]
        tokens = states + self.positions
        if actions is not None:
            embedded = actions.embedded() if isinstance(actions, Chosen) else actions
            tokens = torch.cat([tokens, embedded + self.positions], dim=1)  # [B, 2T, D]
        last = len(self.blocks) - 1
        for index, block in enumerate(self.blocks):
            qkv = None
            if index == 0 and last > 0 and isinstance(actions, Chosen) and len(actions.table) < len(states):
                qkv = self._project_distinct(block, tokens[:, :steps], actions)
            tokens = block(tokens, queries=steps if index == last else None, qkv=qkv)
        return tokens[:, :steps]

    def _project_distinct(self, block: TransformerBlock, states: Tensor, actions: "Chosen") -> Tensor:
        """What the first block projects its tokens to [B, 2T, 3D]; each action's token at each step only once."""
        distinct = actions.table + self.positions.unsqueeze(1)  # [T, A, D]
        projected = block.project(torch.cat([states.flatten(0, 1), distinct.flatten(0, 1)]))
        of_states, of_actions = projected.split([states[..., 0].numel(), distinct[..., 0].numel()])
        chosen = actions.choose(of_actions.unflatten(0, distinct.shape[:2]))
        return torch.cat([of_states.unflatten(0, states.shape[:2]), chosen], dim=1)


@dataclass(frozen=True)
class Chosen:
    """Actions [B, T, D] as choices among a few embeddings: what is the same for all that chose alike is computed once.

    Choosing is a product with zeros and ones, whose backward pass, unlike that of an index, adds up in a fixed order.
    """

    table: Tensor  # [A, D]
    one_hot: Tensor  # [B, T, A], of the table's dtype

    def embedded(self) -> Tensor:
        return self.one_hot @ self.table

    def choose(self, values: Tensor) -> Tensor:
        """Values [T, A, ...] of each action at each step -> [B, T, ...] of the chosen ones."""
        return (self.one_hot.transpose(0, 1) @ values).transpose(0, 1)
