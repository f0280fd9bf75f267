"""Decoder with the parameters, values and gradients of `mlr/decoder.py`, in an order that takes less work.

- The last block reads out the states alone. Queries, projection and MLP of an action token reach no state there.
- Attention from few tokens multiplies in another order: q (n Wk')' = (q Wk) n' and a (n Wv') = (a n) Wv'. Products with
  weights then have Q rows a sequence instead of S. A bias of the keys adds the same to all scores of a query, and the
  softmax stays as it is.
- The first block projects each kind of action once a step where the batch has more sequences than there are kinds.

All of it is exact but for rounding. `tests/mlr/test_fast_decoder.py` holds values and gradients to those of the plain
decoder, in float32 and float64.

B batch, T time, D latent width, S tokens, Q tokens with queries, d width of one head, A kinds of actions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mlr.decoder import Decoder, TransformerBlock, attention_weights, join_heads, split_heads


@dataclass(frozen=True)
class Chosen:
    """Embedded actions [B, T, D] as choices among few embeddings: equal choices are computed once.

    Choosing is a product with zeros and ones. Its backward pass, unlike that of an index, adds up in a fixed order.
    """

    table: Tensor  # [A, D]
    one_hot: Tensor  # [B, T, A], of the table's dtype

    def embedded(self) -> Tensor:
        return self.one_hot @ self.table

    def choose(self, values: Tensor) -> Tensor:
        """Values [T, A, ...] of each action at each step -> [B, T, ...] of the chosen ones."""
        return (self.one_hot.transpose(0, 1) @ values).transpose(0, 1)


class FastDecoder(Decoder):
    """Decoder that leaves out and shares work; its actions may come as `Chosen`."""

    def forward(self, states: Tensor, actions: Tensor | Chosen | None) -> Tensor:
        """State latents [B, T, D] and actions, embedded [B, T, D] or chosen -> predicted state latents [B, T, D]."""
        steps = states.shape[1]
        tokens = self.tokens(states, actions.embedded() if isinstance(actions, Chosen) else actions)
        last = len(self.blocks) - 1
        for index, block in enumerate(self.blocks):
            if index == last and steps < tokens.shape[1]:
                tokens = read_out(block, tokens, steps)
            elif index == 0 and isinstance(actions, Chosen) and len(actions.table) < len(states):
                qkv = project_distinct(block, tokens[:, :steps], actions, self.positions)
                tokens = block.add(tokens, block.attention(qkv))
            else:
                tokens = block(tokens)
        return tokens[:, :steps]


def read_out(block: TransformerBlock, tokens: Tensor, queries: int) -> Tensor:
    """First `queries` tokens behind the block; they still attend to all: [B, S, D] -> [B, Q, D]."""
    return block.add(tokens[:, :queries], block.proj(attend_from(block, block.ln1(tokens), queries)))


def attend_from(block: TransformerBlock, normed: Tensor, queries: int) -> Tensor:
    """Mixed values of the first `queries` of the normed tokens, [B, S, D] -> [B, Q, D], before the projection."""
    dim = normed.shape[-1]
    query_weight, key_weight, value_weight = block.qkv.operand.split(dim)
    query_bias, _, value_bias = (None,) * 3 if block.qkv.bias is None else block.qkv.bias.split(dim)
    query = split_heads(F.linear(normed[:, :queries], query_weight, query_bias), block.heads)  # [B, heads, Q, d]
    key_weight, value_weight = (weight.unflatten(0, (block.heads, -1)) for weight in (key_weight, value_weight))
    every = normed.unsqueeze(1)  # [B, 1, S, D]
    asked = torch.einsum("bhqd,hde->bhqe", query, key_weight)
    heard = attention_weights(asked, every, query.shape[-1]) @ every  # [B, heads, Q, D]
    mixed = join_heads(torch.einsum("bhqe,hde->bhqd", heard, value_weight))
    return mixed if value_bias is None else mixed + value_bias


def project_distinct(block: TransformerBlock, states: Tensor, actions: Chosen, positions: Tensor) -> Tensor:
    """Queries, keys and values [B, 2T, 3D] of state tokens [B, T, D] and actions; each distinct action token once."""
    distinct = actions.table + positions.unsqueeze(1)  # [T, A, D]
    projected = block.project(torch.cat([states.flatten(0, 1), distinct.flatten(0, 1)]))
    of_states, of_actions = projected.split([states[..., 0].numel(), distinct[..., 0].numel()])
    chosen = actions.choose(of_actions.unflatten(0, distinct.shape[:2]))
    return torch.cat([of_states.unflatten(0, states.shape[:2]), chosen], dim=1)
