"""Arrays for pictures of a world model: reconstructions of masked pictures, and open-loop predictions with their error.

`N` pictures, `B` windows, `T` steps, `P` pixels a side. Pixels are in 0..1 and not clipped.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mwm.autoencoder import Autoencoder, Mask, unpatchify
from mwm.config import PATCH
from mwm.dynamics import Draw, Dynamics, States
from mwm.pixels import Pictures

WHITE = 1.0  # brightness of hidden cells; walls and sky of many tasks are grey


@dataclass
class Masking:
    """Rows of the masking grid, each [N, 3, P, P]."""

    truth: Tensor
    masked: Tensor  # hidden cells in white; a convolutional stem drops their features, not their pixels
    reconstruction: Tensor


@dataclass
class Prediction:
    """Rows of the prediction grid, each [B, T, 3, P, P]."""

    truth: Tensor
    reconstruction: Tensor  # the autoencoder's; the pixel baseline's is of states that saw every picture
    prediction: Tensor  # after the pictures of the first steps, then without any


@torch.no_grad()
def reconstruct(autoencoder: Autoencoder, pictures: Tensor, mask: Mask | None) -> Tensor:
    """The autoencoder's pictures [N, 3, P, P] of uint8 [N, 3, P, P]."""
    return decoded(autoencoder, autoencoder.encoder(autoencoder.standardise(pictures), mask), mask)


def decoded(autoencoder: Autoencoder | Pictures, tokens: Tensor, mask: Mask | None = None) -> Tensor:
    """Pictures [N, 3, P, P] of tokens [N, 1 + K, D], or of a pixel baseline's pixels."""
    if isinstance(autoencoder, Pictures):
        return autoencoder.undo(tokens)
    cells, _ = autoencoder.decoder(tokens, mask)
    return autoencoder.standardise.undo(unpatchify(cells.float()))


@torch.no_grad()
def show_masking(autoencoder: Autoencoder, pictures: Tensor, noise: Tensor) -> Masking:
    """Pictures uint8 [N, 3, P, P] under the masks of noise [N, S], and what the autoencoder makes of them."""
    mask, truth = autoencoder.mask(noise), pictures.float() / 255
    masked = truth
    if mask is not None:
        grid = pictures.shape[-1] // PATCH
        hidden = mask.hidden.unflatten(1, (1, grid, grid)).repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)
        masked = torch.where(hidden, WHITE, truth)
    return Masking(truth, masked, reconstruct(autoencoder, pictures, mask))


@torch.no_grad()
def show_prediction(
    autoencoder: Autoencoder | Pictures,
    dynamics: Dynamics,
    pictures: Tensor,
    actions: Tensor,
    first: Tensor,
    observed_steps: int,
    mask: Mask | None,
    draw: Draw,
) -> Prediction:
    """Follows windows with their pictures for `observed_steps` steps, and then by their actions alone.

    pictures uint8 [B, T, 3, P, P], actions float32 [B, T, A] that led to them, first bool [B, T]. mask: of the
    autoencoder's row; with patches the released code shows that row masked.
    """
    windows, steps = actions.shape[:2]
    flat = pictures.flatten(0, 1)
    embedding = dynamics.embed(autoencoder.features(flat), windows)
    seen = dynamics.rssm.observe(
        embedding[:, :observed_steps], actions[:, :observed_steps], first[:, :observed_steps], draw
    )
    features = list(seen.states.feature.unbind(1))
    states = States(seen.states.stoch[:, -1], seen.states.deter[:, -1])
    for step in range(observed_steps, steps):
        states, _ = dynamics.rssm.imagine_step(states, actions[:, step], draw)
        features.append(states.feature)
    tokens = dynamics.unpool(torch.stack(features, dim=1).flatten(0, 1))
    prediction = decoded(autoencoder, tokens)
    if isinstance(autoencoder, Pictures):
        reconstruction = show_states(autoencoder, dynamics, pictures, actions, first, draw)
    else:
        reconstruction = reconstruct(autoencoder, flat, mask)
    return Prediction(
        truth=pictures.float() / 255,
        reconstruction=reconstruction.view(pictures.shape),
        prediction=prediction.view(pictures.shape),
    )


@torch.no_grad()
def show_states(
    autoencoder: Autoencoder | Pictures,
    dynamics: Dynamics,
    pictures: Tensor,
    actions: Tensor,
    first: Tensor,
    draw: Draw,
) -> Tensor:
    """Pictures [B, T, 3, P, P] of states that saw every picture; arguments as in `show_prediction`."""
    embedding = dynamics.embed(autoencoder.features(pictures.flatten(0, 1)), len(actions))
    tokens = dynamics.unpool(dynamics.rssm.observe(embedding, actions, first, draw).states.feature.flatten(0, 1))
    return decoded(autoencoder, tokens).view(pictures.shape)


def open_loop_errors(shown: Prediction, states: Tensor, observed_steps: int) -> dict[str, Tensor]:
    """Mean squared error of each later step [T - observed_steps]: of the prediction, and of guesses beside it.

    They are the last picture seen, its reconstruction, the reconstruction of the true picture, and `states`, pictures
    [B, T, 3, P, P] of states that saw the true picture. The decoder's error is in all but the last picture, and a
    state's own in `states` and the prediction.
    """
    later = shown.truth[:, observed_steps:]
    last = slice(observed_steps - 1, observed_steps)
    guesses = {
        "open_loop": shown.prediction[:, observed_steps:],
        "last_picture": shown.truth[:, last],
        "last_reconstructed": shown.reconstruction[:, last],
        "truth_reconstructed": shown.reconstruction[:, observed_steps:],
        "state_of_truth": states[:, observed_steps:],
    }
    return {name: (guess - later).square().mean((0, 2, 3, 4)) for name, guess in guesses.items()}


def to_bytes(pixels: Tensor) -> Tensor:
    """Pixels in 0..1 as uint8, cut at both ends."""
    return (pixels.clamp(0, 1) * 255).round().to(torch.uint8)
