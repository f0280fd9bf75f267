"""SAC+AE against its reference files: reconstruction, loss, gradients, three whole updates."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from auxiliaries.slot import Auxiliary
from tests.golden.auxiliary_weights import GRADIENTS, LOSSES, Reference, gradient_checks, load_set, update_checks
from tests.golden.check import Check, load, relative

ALL = slice(None)


def replay_sacae(folder: Path) -> Iterator[Check]:
    yield from loss_checks(folder, folder / "sacae_loss.npz")
    yield from whole_updates(folder, folder / "sacae_updates.npz")


def layers(auxiliary: Auxiliary) -> Iterator[tuple[str, nn.Module]]:
    decoder = auxiliary.owned["decoder"]
    yield "aux/decoder/fc", decoder.fc
    for number, layer in enumerate(decoder.layers):
        yield f"aux/decoder/deconv{number}", layer


def reference_of(folder: Path) -> Reference:
    return load_set(folder, "sacae", "autoencoder", layers, "agent.encoder.tanh=true")


def loss_checks(folder: Path, path: Path) -> Iterator[Check]:
    reference, arrays = reference_of(folder), load(path)
    auxiliary, batch, shared = reference.agent.auxiliary, reference.batch, reference.shared
    noise = torch.from_numpy(arrays["loss/dequantisation_noise256"])
    with torch.no_grad():
        latent = reference.agent.encoder(batch.obs)
        image = auxiliary.owned["decoder"](latent).double()
    yield relative(path.name, "latent", latent, arrays["loss/latent"], LOSSES)
    total, norm = arrays["loss/reconstruction_sum_l2"]
    yield relative(path.name, "L2 of the reconstruction", image.norm(), norm, LOSSES)
    yield relative(path.name, "sum of the reconstruction", image.sum() / norm, total / norm, GRADIENTS)
    values = auxiliary.loss(batch, shared, noise, ALL)
    loss = values["loss"].mean()
    yield relative(path.name, "loss", loss.detach(), arrays["loss/loss"], LOSSES)
    yield relative(path.name, "penalty", values["latent_penalty"].mean(), arrays["loss/latent_penalty"], LOSSES)
    loss.backward()
    yield from gradient_checks(path.name, reference, arrays, "loss/")


def whole_updates(folder: Path, path: Path) -> Iterator[Check]:
    reference, arrays = reference_of(folder), load(path)

    def draw(update: int) -> None:
        noise = torch.from_numpy(arrays[f"dequantisation_noise256_{update}"])
        reference.agent.auxiliary.draw = lambda batch, shared: noise

    yield from update_checks(path.name, reference, arrays, {"train_ae/ae_loss": "aux/loss"}, draw)
