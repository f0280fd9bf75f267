"""Masked autoencoder: convolutional features or patches of a picture, most of them dropped, to its pixels and reward.

`N` pictures, `P` pixels a side, `S` spatial tokens, `K` of them kept, `D` width of the encoder, `V` values of a cell:
row, column, channel. Source: Seo et al. 2022, section 3.1, and the released code.
"""

import torch
from torch import Tensor, nn

from harness.pixels import to_unit_range
from mwm.config import PATCH, RGB, MWMSection, kept_tokens
from mwm.networks import Transformer
from mwm.rewards import reward_error
from mwm.tokens import grid_positions

VALUES = RGB * PATCH**2  # values of a cell
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's pixels in 0..1
CONVOLUTIONS = 3  # convolutions of the stem with stride 2


class Standardise(nn.Module):
    """Pixels 0..255 [..., 3, P, P] to a mean of about 0 and a deviation of about 1, and back to 0..1."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(RGB, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(RGB, 1, 1), persistent=False)

    def forward(self, pictures: Tensor) -> Tensor:
        return (to_unit_range(pictures.float()) - self.mean) / self.std

    def undo(self, standardised: Tensor) -> Tensor:
        return standardised * self.std + self.mean


def patchify(pictures: Tensor) -> Tensor:
    """[N, 3, P, P] -> the values of each cell, [N, S, V], cells row by row."""
    cells = pictures.unflatten(3, (-1, PATCH)).unflatten(2, (-1, PATCH))  # [N, 3, row, y, column, x]
    return cells.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(cells: Tensor) -> Tensor:
    """Inverse of `patchify`."""
    grid = int(cells.shape[1] ** 0.5)
    cells = cells.unflatten(2, (PATCH, PATCH, RGB)).unflatten(1, (grid, grid))  # [N, row, column, y, x, 3]
    return cells.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


class Mask:
    """Order in which the tokens of each picture stay: the first `kept` of it. `order` and `restore` are int64 [N, S].

    noise [N, S]: tokens with the smallest numbers stay. A ratio of 0 leaves all in place.
    """

    def __init__(self, noise: Tensor, ratio: float):
        self.kept = kept_tokens(noise.shape[1], ratio)
        places = torch.arange(noise.shape[1], device=noise.device)
        self.order = noise.argsort(dim=1) if ratio > 0 else places.expand_as(noise)
        self.restore = self.order.argsort(dim=1)  # place of each token in the order

    @property
    def hidden(self) -> Tensor:
        """bool [N, S], True where a token is dropped."""
        return self.restore >= self.kept

    def drop(self, tokens: Tensor) -> Tensor:
        """[N, S, D] -> those that stay, [N, K, D]."""
        return TakeTokens.apply(tokens, self.order[:, : self.kept], self.restore)

    def fill(self, kept: Tensor, token: Tensor) -> Tensor:
        """[N, K, D] -> all in their places, [N, S, D], with `token` [D] where they were dropped."""
        count, total = len(kept), self.order.shape[1]
        tokens = torch.cat((kept, token.to(kept.dtype).expand(count, total - self.kept, -1)), dim=1)
        return TakeTokens.apply(tokens, self.restore, self.order)


class TakeTokens(torch.autograd.Function):
    """tokens [N, S, D] at `places` int64 [N, K], the first K of a permutation with the inverse `back` [N, S].

    The gradient is a gather as well, where torch's own adds up in any order.
    """

    @staticmethod
    def forward(ctx, tokens: Tensor, places: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        return tokens.gather(1, places.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        (back,) = ctx.saved_tensors
        dropped = back.shape[1] - gradient.shape[1]
        gradient = nn.functional.pad(gradient, (0, 0, 0, dropped))
        return gradient.gather(1, back.unsqueeze(-1).expand(-1, -1, gradient.shape[-1])), None, None


def make_stem(kind: str, width: int) -> nn.Sequential:
    """Layers from pixels [N, 3, P, P] to features [N, width, g, g]: overlapping convolutions, or one of a cell each."""
    if kind == "patch":
        return nn.Sequential(nn.Conv2d(RGB, width, PATCH, PATCH))
    channels = [RGB, *(width >> shift for shift in range(CONVOLUTIONS, 0, -1))]
    layers = []
    for inputs, outputs in zip(channels, channels[1:], strict=False):
        layers += [nn.Conv2d(inputs, outputs, 4, 2, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(channels[-1], width, 1))


class Encoder(nn.Module):
    """Standardised pictures [N, 3, P, P] to tokens [N, 1 + K, D], the summary first."""

    def __init__(self, section: MWMSection, image_size: int):
        super().__init__()
        width = section.encoder.width
        self.stem = make_stem(section.stem, width)
        self.summary_token = nn.Parameter(torch.zeros(width))
        self.transformer = Transformer(section.encoder)
        self.register_buffer("positions", grid_positions(width, image_size // PATCH), persistent=False)

    def forward(self, pictures: Tensor, mask: Mask | None = None) -> Tensor:
        tokens = self.stem(pictures).flatten(2).transpose(1, 2) + self.positions
        if mask is not None:
            tokens = mask.drop(tokens)
        summary = self.summary_token.to(tokens.dtype).expand(len(tokens), 1, -1)
        return self.transformer(torch.cat((summary, tokens), dim=1))


class Decoder(nn.Module):
    """Tokens [N, 1 + K, D] to standardised pixels [N, S, V], and to the logarithm of the reward, [N], if asked for.

    As released, the reward is read off the predicted pixels of the last cell, so its gradient passes through them;
    `reward_head=reward_token` reads it off a token of its own (docs/fidelity.md).
    """

    def __init__(self, section: MWMSection, image_size: int):
        super().__init__()
        width, grid = section.decoder.width, image_size // PATCH
        self.predicts_reward, self.reward_head = section.reward_prediction, section.reward_head
        self.embed = nn.Linear(section.encoder.width, width)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.transformer = Transformer(section.decoder)
        self.pixels = nn.Linear(width, VALUES)
        if self.predicts_reward:
            self.reward = nn.Linear(VALUES if self.reward_head == "last_patch" else width, 1)
        positions = grid_positions(width, grid, summary=True, extra=self.predicts_reward)
        self.register_buffer("positions", positions, persistent=False)

    def forward(self, tokens: Tensor, mask: Mask | None = None) -> tuple[Tensor, Tensor | None]:
        tokens = self.embed(tokens)
        summary, spatial = tokens[:, :1], tokens[:, 1:]
        if mask is not None:
            spatial = mask.fill(spatial, self.mask_token)
        parts, cells = [summary, spatial], spatial.shape[1]
        if self.predicts_reward:
            parts.append(self.mask_token.to(tokens.dtype).expand(len(tokens), 1, -1))
        tokens = self.transformer(torch.cat(parts, dim=1) + self.positions)
        pixels = self.pixels(tokens[:, 1 : 1 + cells])
        if not self.predicts_reward:
            return pixels, None
        read = pixels[:, -1] if self.reward_head == "last_patch" else tokens[:, -1]
        return pixels, self.reward(read).squeeze(-1)


class Autoencoder(nn.Module):
    """Encoder and decoder, with the loss that trains them."""

    def __init__(self, section: MWMSection, image_size: int):
        super().__init__()
        self.mask_ratio, self.tokens = section.mask_ratio, (image_size // PATCH) ** 2
        self.standardise = Standardise()
        self.encoder = Encoder(section, image_size)
        self.decoder = Decoder(section, image_size)

    def mask(self, noise: Tensor) -> Mask | None:
        """The mask of noise [N, S]; None where nothing is dropped."""
        return Mask(noise, self.mask_ratio) if self.mask_ratio > 0 else None

    def features(self, pictures: Tensor) -> Tensor:
        """Tokens [N, 1 + S, D] of whole pictures uint8 [N, 3, P, P]."""
        return self.encoder(self.standardise(pictures)).float()

    def loss(self, pictures: Tensor, rewards: Tensor, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared errors of all pixels, hidden and visible alike, and of the reward; their sum, and metrics.

        pictures uint8 [N, 3, P, P], rewards float32 [N], noise [N, S] that the mask is made of.
        """
        standardised, mask = self.standardise(pictures), self.mask(noise)
        pixels, reward = self.decoder(self.encoder(standardised, mask), mask)
        loss = (pixels.float() - patchify(standardised)).square().mean()
        metrics = {"image_loss": loss}
        if reward is not None:
            metrics["reward_loss"] = reward_error(reward, rewards)
            loss = loss + metrics["reward_loss"]
        return loss, metrics
