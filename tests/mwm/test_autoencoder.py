import pytest
import torch

from mwm.autoencoder import Autoencoder, Mask, TakeTokens, patchify, unpatchify
from mwm.networks import initialise
from tests.golden.check import DATA
from tests.golden.mwm_weights import make_section, read_sizes

SIZES = read_sizes(DATA / "mwm")
TOKENS = SIZES["tokens"]


def make(seed=0, **changes):
    torch.manual_seed(seed)
    model = Autoencoder(make_section(SIZES, **changes), SIZES["picture"])
    initialise(model)
    return model


def batch(count=3):
    torch.manual_seed(1)
    size = SIZES["picture"]
    pictures = torch.randint(256, (count, 3, size, size), dtype=torch.uint8)
    return pictures, torch.randn(count), torch.rand(count, TOKENS)


@pytest.mark.parametrize("ratio, hidden", [(0.0, 0), (0.25, 4), (0.5, 8), (0.75, 12), (0.9, 15)])
def test_every_picture_loses_the_same_number_of_tokens(ratio, hidden):
    mask = Mask(torch.rand(50, TOKENS), ratio)
    assert set(mask.hidden.sum(1).tolist()) == {hidden} and mask.kept == TOKENS - hidden
    if hidden:
        assert 0 < mask.hidden.float().mean(0).min() or hidden < 8, "a token is never hidden"
        assert len({tuple(row) for row in mask.hidden.tolist()}) > 5, "one mask for all"


def test_tokens_that_stay_are_back_in_their_places():
    tokens = torch.randn(4, TOKENS, 5)
    mask = Mask(torch.rand(4, TOKENS), 0.75)
    filled = mask.fill(mask.drop(tokens), torch.full((5,), 9.0))
    assert torch.equal(filled[~mask.hidden], tokens[~mask.hidden])
    assert (filled[mask.hidden] == 9).all()


def test_the_gradient_of_taken_tokens_is_that_of_indexing():
    tokens = torch.randn(3, 7, 2, dtype=torch.float64, requires_grad=True)
    order = torch.rand(3, 7).argsort(1)
    weight = torch.randn(3, 4, 2, dtype=torch.float64)
    (TakeTokens.apply(tokens, order[:, :4], order.argsort(1)) * weight).sum().backward()
    actual, tokens.grad = tokens.grad, None
    (torch.stack([row[places] for row, places in zip(tokens, order[:, :4], strict=True)]) * weight).sum().backward()
    assert torch.equal(actual, tokens.grad)


def test_hidden_cells_reach_the_reconstruction_of_others_through_the_stem_alone():
    """Pixels of a hidden cell change nothing with patches; with convolutions a neighbour still sees its border."""
    pictures, _, _ = batch(1)
    noise, hidden = torch.linspace(0, 1, TOKENS)[None], 4  # the first row of four cells stays
    for stem, reached in (("patch", False), ("conv", True)):
        model = make(stem=stem)
        mask = model.mask(noise)
        cells = patchify(pictures.float())
        cells[0, hidden] = 255 - cells[0, hidden]
        changed = unpatchify(cells).to(torch.uint8)
        outputs = [model.decoder(model.encoder(model.standardise(p), mask), mask)[0] for p in (pictures, changed)]
        assert torch.equal(*outputs) != reached, stem


def test_the_reward_of_the_paper_comes_from_its_own_token():
    pictures, rewards, noise = batch()
    gradients = {}
    for head in ("last_patch", "reward_token"):
        model = make(reward_head=head)
        _, metrics = model.loss(pictures, rewards, noise)
        gradients[head] = torch.autograd.grad(metrics["reward_loss"], model.decoder.pixels.weight, allow_unused=True)[0]
        assert model.decoder.reward.in_features == (192 if head == "last_patch" else SIZES["decoder"]["width"])
    assert gradients["last_patch"].abs().max() > 0 and gradients["reward_token"] is None


def test_without_reward_prediction_there_is_no_further_token():
    pictures, rewards, noise = batch()
    model = make(reward_prediction=False)
    loss, metrics = model.loss(pictures, rewards, noise)
    assert metrics.keys() == {"image_loss"} and loss is metrics["image_loss"]
    assert len(model.decoder.positions) == TOKENS + 1
    assert len(make().decoder.positions) == TOKENS + 2


def test_a_ratio_of_0_drops_nothing():
    pictures, _, noise = batch()
    model = make(mask_ratio=0.0)
    assert model.mask(noise) is None
    assert model.encoder(model.standardise(pictures)).shape == (3, 1 + TOKENS, SIZES["encoder"]["width"])


def test_pixels_survive_standardising_and_cutting():
    pictures, _, _ = batch()
    standardise = make().standardise
    pixels = standardise.undo(unpatchify(patchify(standardise(pictures)))) * 255
    assert torch.equal(pixels.round().to(torch.uint8), pictures)
