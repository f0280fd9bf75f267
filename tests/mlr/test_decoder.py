"""B batch, T time, D latent width, S tokens."""

import math

import pytest
import torch

from mlr.config import DecoderConfig
from mlr.decoder import Decoder, TransformerBlock, sine_positions
from tests.golden.check import DATA, assert_all
from tests.golden.dmcontrol_core import replay_b, replay_c


def config(depth=2, heads=1, qkv_bias=False):
    return DecoderConfig(depth=depth, heads=heads, mlp_ratio=2.0, qkv_bias=qkv_bias, norm_eps=1e-5, width=0)


def randomized(module):
    """Every parameter away from its initial value, so that none can be left out unnoticed."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module.double()


def slow_layer_norm(x, layer, eps):
    centred = [value - sum(x) / len(x) for value in x]
    scale = math.sqrt(sum(value**2 for value in centred) / len(x) + eps)
    return [c / scale * w + b for c, w, b in zip(centred, layer.weight.tolist(), layer.bias.tolist(), strict=True)]


def slow_linear(x, layer):
    bias = [0.0] * len(layer.weight) if layer.bias is None else layer.bias.tolist()
    rows = layer.weight.tolist()
    return [sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in zip(rows, bias, strict=True)]


def slow_block(block, tokens, heads, eps=1e-5):
    """One sequence, a list of S lists of D numbers, token by token and head by head."""
    dim = len(tokens[0])
    size = dim // heads
    qkv = [slow_linear(slow_layer_norm(token, block.ln1, eps), block.qkv) for token in tokens]
    out = []
    for s, token in enumerate(tokens):
        mixed = []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            query = qkv[s][:dim][part]
            keys = [row[dim : 2 * dim][part] for row in qkv]
            values = [row[2 * dim :][part] for row in qkv]
            exponents = [math.exp(sum(a * b for a, b in zip(query, key, strict=True)) / size**0.5) for key in keys]
            weights = [value / sum(exponents) for value in exponents]
            mixed += [sum(w * value[i] for w, value in zip(weights, values, strict=True)) for i in range(size)]
        x = [a + b for a, b in zip(token, slow_linear(mixed, block.proj), strict=True)]
        hidden = [
            0.5 * v * (1 + math.erf(v / 2**0.5)) for v in slow_linear(slow_layer_norm(x, block.ln2, eps), block.fc1)
        ]
        out.append([a + b for a, b in zip(x, slow_linear(hidden, block.fc2), strict=True)])
    return out


@pytest.mark.parametrize(("heads", "qkv_bias"), [(1, False), (2, True), (4, False)])
def test_block_against_plain_loops(heads, qkv_bias):
    block = randomized(TransformerBlock(8, config(heads=heads, qkv_bias=qkv_bias)))
    tokens = torch.randn(2, 5, 8, dtype=torch.float64)
    actual = block(tokens)
    expected = torch.tensor([slow_block(block, sequence, heads) for sequence in tokens.tolist()], dtype=torch.float64)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("with_actions", [True, False])
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_decoder_against_plain_loops(depth, with_actions):
    """Tokens are states, then actions, each with the position of its step; states come out."""
    batch, steps, dim = 3, 4, 6
    decoder = randomized(Decoder(dim, steps, config(depth=depth, heads=2)))
    states, actions = torch.randn(2, batch, steps, dim, dtype=torch.float64)
    positions = sine_positions(steps, dim).tolist()
    expected = []
    for b in range(batch):
        kinds = (states, actions) if with_actions else (states,)
        tokens = [
            [value + position for value, position in zip(kind[b, t].tolist(), positions[t], strict=True)]
            for kind in kinds
            for t in range(steps)
        ]
        for block in decoder.blocks:
            tokens = slow_block(block, tokens, heads=2)
        expected.append(tokens[:steps])
    assert len(decoder.blocks) == depth
    decoded = decoder(states, actions if with_actions else None)
    torch.testing.assert_close(decoded, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-10)


def test_order_of_the_tokens_has_no_meaning():
    steps, dim = 4, 6
    decoder = randomized(Decoder(dim, steps, config()))
    states, actions = torch.randn(2, 3, steps, dim, dtype=torch.float64)
    tokens = torch.stack([states + decoder.positions, actions + decoder.positions], dim=2).flatten(1, 2)  # s0 a0 s1 ..
    for block in decoder.blocks:
        tokens = block(tokens)
    torch.testing.assert_close(decoder(states, actions), tokens[:, ::2], rtol=1e-12, atol=1e-12)


def test_attention_looks_both_ways_and_at_the_actions():
    decoder = randomized(Decoder(6, 4, config()))
    states, actions = torch.randn(2, 1, 4, 6, dtype=torch.float64, requires_grad=True).unbind(0)
    gradients = torch.autograd.grad(decoder(states, actions)[:, 1].sum(), [states, actions])
    for gradient in gradients:
        assert (gradient.abs().sum(dim=-1) > 0).all()


def test_sine_positions():
    table = sine_positions(16, 10)
    assert table.shape == (16, 10) and table.dtype == torch.float32
    for t in range(16):
        for i in range(5):
            angle = t * 10000 ** (-2 * i / 10)
            assert table[t, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-7)
            assert table[t, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-7)


def test_positions_are_no_state():
    assert "positions" not in Decoder(6, 4, config()).state_dict()


def test_reference_block():
    assert_all(replay_b(DATA / "dmcontrol"))


def test_reference_positions():
    assert_all(replay_c(DATA / "dmcontrol"))
