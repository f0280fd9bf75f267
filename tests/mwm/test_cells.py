import pytest
import torch

from mwm.autoencoder import make_stem
from mwm.cells import hidden_pixels

SIZE, GRID = 64, 8


@pytest.mark.parametrize("stem", ["conv", "patch"])
@pytest.mark.parametrize("kept", [6, 16, 48])
def test_hidden_pixels_are_those_that_give_no_gradient(stem, kept):
    """Random masks, and the gradient of the kept tokens by each pixel, through the real stem."""
    random = torch.Generator().manual_seed(0)
    layers = torch.nn.Sequential(*(layer for layer in make_stem(stem, 8) if not isinstance(layer, torch.nn.ReLU)))
    for weight in layers.parameters():
        torch.nn.init.ones_(weight)
    hidden = []
    for _ in range(60):
        pictures = torch.zeros(1, 3, SIZE, SIZE, requires_grad=True)
        places = torch.rand(GRID**2, generator=random).argsort()[:kept]
        layers(pictures).flatten(2)[..., places].sum().backward()
        hidden.append((pictures.grad[0, 0] == 0).float().mean())
    mean, deviation = torch.stack(hidden).mean(), torch.stack(hidden).std()
    share = hidden_pixels(stem, SIZE, 1 - kept / GRID**2)
    assert abs(share - mean) <= 4 * deviation / len(hidden) ** 0.5 + 1e-6


def test_the_paper_s_mask():
    assert hidden_pixels("patch", SIZE, 0.75) == 0.75
    assert hidden_pixels("conv", SIZE, 0.75) == pytest.approx(0.174, abs=5e-4)
    assert hidden_pixels("conv", SIZE, 0.0) == hidden_pixels("patch", SIZE, 0.0) == 0
