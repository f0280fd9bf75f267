"""CURL on SAC against its reference files: keys, logits, loss, gradients, three whole updates."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from auxiliaries.slot import Auxiliary
from tests.golden.auxiliary_weights import LOSSES, Reference, gradient_checks, load_set, update_checks
from tests.golden.check import Check, load, relative

ALL = slice(None)


def replay_curl(folder: Path) -> Iterator[Check]:
    yield from loss_checks(folder, folder / "curl_loss.npz")
    yield from whole_updates(folder, folder / "curl_updates.npz")


def layers(auxiliary: Auxiliary) -> Iterator[tuple[str, nn.Parameter]]:
    yield "aux/W", auxiliary.owned["similarity"].weight


def reference_of(folder: Path) -> Reference:
    """The release steps the encoder twice with one gradient (U1)."""
    reference = load_set(folder, "curl", "curl", layers, "aux_optimizer.encoder_rate_factor=2")
    keys = torch.from_numpy(reference.arrays["positive"]).float()
    reference.agent.auxiliary.draw = lambda batch, shared: keys
    return reference


def loss_checks(folder: Path, path: Path) -> Iterator[Check]:
    reference, arrays = reference_of(folder), load(path)
    auxiliary, batch, shared = reference.agent.auxiliary, reference.batch, reference.shared
    drawn = auxiliary.draw(batch, shared)
    anchors, keys = (embed(batch, shared, drawn, ALL) for embed in (auxiliary.embed, auxiliary.embed_targets))
    yield relative(path.name, "anchors", anchors.detach(), arrays["loss/anchor"], LOSSES)
    yield relative(path.name, "keys", keys, arrays["loss/key"], LOSSES)
    with torch.no_grad():
        logits = auxiliary.owned["similarity"](anchors, keys)
    yield relative(path.name, "logits", logits - logits.amax(1, keepdim=True), arrays["loss/logits"], LOSSES)
    values = auxiliary.compare(anchors, keys)
    loss = values["loss"].mean()
    yield relative(path.name, "loss", loss.detach(), arrays["loss/loss"], LOSSES)
    yield relative(path.name, "accuracy", values["accuracy"].mean(), arrays["loss/accuracy"], LOSSES)
    loss.backward()
    yield from gradient_checks(path.name, reference, arrays, "loss/")


def whole_updates(folder: Path, path: Path) -> Iterator[Check]:
    yield from update_checks(path.name, reference_of(folder), load(path), {"train/curl_loss": "aux/loss"})
