"""The plain decoder is the reference. B batch, T time, A kinds of actions, D latent width."""

import pytest
import torch
from torch.nn import functional as F

from mlr.config import DecoderConfig
from mlr.decoder import Decoder
from mlr.fast_decoder import Chosen, FastDecoder

BATCH, STEPS, DIM = 5, 4, 8
DTYPES = {torch.float64: 1e-12, torch.float32: 2e-5}  # tolerance relative to the largest entry


def make(depth, heads=2, qkv_bias=True, dtype=torch.float64):
    """A fast and a plain decoder with the same parameters, all of them away from their initial values."""
    config = DecoderConfig(depth=depth, heads=heads, mlp_ratio=2.0, qkv_bias=qkv_bias, norm_eps=1e-5, width=0)
    torch.manual_seed(0)
    fast, plain = FastDecoder(DIM, STEPS, config), Decoder(DIM, STEPS, config)
    with torch.no_grad():
        for parameter in fast.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    plain.load_state_dict(fast.state_dict())
    return fast.to(dtype), plain.to(dtype)


def draw_actions(kinds, dtype=torch.float64):
    """A table of embeddings and choices among them."""
    table = torch.randn(kinds, DIM, dtype=dtype, requires_grad=True)
    return table, F.one_hot(torch.randint(kinds, (BATCH, STEPS)), kinds).to(dtype)


def with_gradients(decoder, states, actions, *inputs):
    """Decoded states, then gradients of a weighted sum with respect to states, further inputs and parameters."""
    decoded = decoder(states, actions)
    weighting = torch.linspace(-1, 1, decoded.numel(), dtype=decoded.dtype).view_as(decoded)
    wanted = [states, *inputs, *decoder.parameters()]
    return decoded, *torch.autograd.grad((decoded * weighting).sum(), wanted)


def assert_near(actual, expected, tolerance):
    for value, reference in zip(actual, expected, strict=True):
        largest = reference.abs().max().item()
        assert largest > 0  # or a gradient that is missing would pass
        torch.testing.assert_close(value, reference, rtol=0, atol=tolerance * largest)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "qkv_bias"), [(1, False), (2, True), (4, False)])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_reading_out_states_alone_changes_nothing(depth, heads, qkv_bias, dtype):
    fast, plain = make(depth, heads, qkv_bias, dtype)
    states = torch.randn(BATCH, STEPS, DIM, dtype=dtype, requires_grad=True)
    actions = torch.randn(BATCH, STEPS, DIM, dtype=dtype, requires_grad=True)
    actual = with_gradients(fast, states, actions, actions)
    assert_near(actual, with_gradients(plain, states, actions, actions), DTYPES[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "qkv_bias"), [(1, False), (2, True)])
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("kinds", [3, 7])  # fewer than sequences, and more
def test_chosen_actions_equal_their_embeddings(kinds, depth, heads, qkv_bias, dtype):
    fast, plain = make(depth, heads, qkv_bias, dtype)
    states = torch.randn(BATCH, STEPS, DIM, dtype=dtype, requires_grad=True)
    table, one_hot = draw_actions(kinds, dtype)
    actual = with_gradients(fast, states, Chosen(table, one_hot), table)
    expected = with_gradients(plain, states, table[one_hot.argmax(-1)], table)
    assert_near(actual, expected, DTYPES[dtype])


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_without_actions_the_same_operations_run(depth):
    fast, plain = make(depth)
    states = torch.randn(BATCH, STEPS, DIM, dtype=torch.float64)
    assert fast(states, None).equal(plain(states, None))


def test_without_a_block_actions_have_no_say():
    fast, plain = make(0)
    states = torch.randn(BATCH, STEPS, DIM, dtype=torch.float64)
    decoded = fast(states, Chosen(*draw_actions(3)))
    assert decoded.equal(plain(states, None)) and decoded.shape == states.shape


def projected_rows(decoder, *inputs):
    """Tokens that pass through the first block's projection to queries, keys and values."""
    rows = []
    hook = decoder.blocks[0].qkv.register_forward_hook(lambda module, args, output: rows.append(output[..., 0].numel()))
    decoder(*inputs)
    hook.remove()
    return sum(rows)


def test_an_action_is_projected_once_a_step():
    fast, plain = make(2)
    states, (table, one_hot) = torch.randn(BATCH, STEPS, DIM, dtype=torch.float64), draw_actions(3)
    assert projected_rows(plain, states, one_hot @ table) == 2 * BATCH * STEPS
    assert projected_rows(fast, states, Chosen(table, one_hot)) == (BATCH + 3) * STEPS
    assert projected_rows(fast, states, one_hot @ table) == 2 * BATCH * STEPS


def test_the_last_blocks_mlp_sees_states_alone():
    fast, _ = make(2)
    widths = []
    for block in fast.blocks:
        block.fc1.register_forward_hook(lambda module, args, output: widths.append(output.shape[1]))
    fast(*torch.randn(2, BATCH, STEPS, DIM, dtype=torch.float64))
    assert widths == [2 * STEPS, STEPS]


def test_both_decoders_have_the_same_parameters():
    fast, plain = make(2)
    assert [name for name, _ in fast.named_parameters()] == [name for name, _ in plain.named_parameters()]
    assert fast.state_dict().keys() == plain.state_dict().keys()
