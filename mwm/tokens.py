"""Tokens of a picture: their positions, one vector made of them, and their prediction from one vector.

`N` pictures, `S` spatial tokens, `g` of them a side, `D` width of the autoencoder's, `E` of the pool, `F` of a state's
feature. One token more, the summary, stands before the spatial ones outside of this file, and behind them inside.
"""

import torch
from torch import Tensor, nn

from mwm.config import ViTConfig
from mwm.networks import Transformer


def grid_positions(width: int, grid: int, summary: bool = False, extra: bool = False) -> Tensor:
    """Fixed positions float32 [S, width] of the cells of a grid, row by row.

    summary: a row of zeros before them. extra: the cell (grid, grid), just outside, behind them.
    A quarter of the frequencies serves each of sine and cosine of column and row. Source: released code.
    """
    frequency = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    cells = torch.cartesian_prod(torch.arange(grid), torch.arange(grid))  # row, column
    if extra:
        cells = torch.cat((cells, torch.full((1, 2), grid)))
    angle = cells.flip(1).unsqueeze(-1).double() * frequency  # column first, [S, 2, width / 4]
    table = torch.stack((angle.sin(), angle.cos()), dim=2).flatten(1)
    if summary:
        table = torch.cat((torch.zeros(1, width, dtype=torch.float64), table))
    return table.float()


class Pool(nn.Module):
    """Tokens with the summary first, [N, 1 + S, D], to one vector [N, E]: a transformer's mean over them."""

    def __init__(self, config: ViTConfig, inputs: int, grid: int):
        super().__init__()
        self.embed = nn.Linear(inputs, config.width)
        self.transformer = Transformer(config)
        self.register_buffer("positions", grid_positions(config.width, grid, extra=True), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        return self.tokens(features).mean(dim=1)

    def tokens(self, features: Tensor) -> Tensor:
        """Output of the transformer, [N, S + 1, E], summary last."""
        return self.transformer(self.embed(features.roll(-1, dims=1)) + self.positions)


class Unpool(nn.Module):
    """A state's feature [N, F] to a prediction of all tokens with the summary first, [N, 1 + S, D]."""

    def __init__(self, config: ViTConfig, inputs: int, outputs: int, grid: int):
        super().__init__()
        self.embed = nn.Linear(inputs, config.width)
        self.mask_token = nn.Parameter(torch.zeros(config.width))
        self.transformer = Transformer(config)
        self.predict = nn.Linear(config.width, outputs)
        positions = grid_positions(config.width, grid, summary=True, extra=True)
        self.register_buffer("positions", positions, persistent=False)

    def forward(self, feature: Tensor) -> Tensor:
        state = self.embed(feature).unsqueeze(1)
        masked = self.mask_token.expand(len(feature), len(self.positions) - 1, -1)
        tokens = self.transformer(torch.cat((state, masked), dim=1) + self.positions)
        return self.predict(tokens[:, 1:]).roll(1, dims=1)
