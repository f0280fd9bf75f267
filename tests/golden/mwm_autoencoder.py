"""Replays a to d of a folder of MWM reference files: positions, stem, masks, and the autoencoder with its gradients."""

import re
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from mwm.autoencoder import Autoencoder, Mask, Standardise, make_stem, patchify, unpatchify
from mwm.tokens import grid_positions
from tests.golden.check import Arrays, Check, exact, load, relative
from tests.golden.mwm_weights import fill, last_axis_channels, make_section, pictures_of, read_sizes, weights_of

FORWARD, GRADIENT = 1e-5, 1e-4


def replay_a(folder: Path) -> Iterator[Check]:
    """Position tables, all that their names ask for."""
    for path in sorted(folder.glob("a_*.npz")):
        for key, table in load(path).items():
            width, grid, summary, extra = map(int, re.findall(r"\d+", key))
            yield relative(path.name, key, grid_positions(width, grid, bool(summary), bool(extra)), table, FORWARD)


@torch.no_grad()
def replay_b(folder: Path) -> Iterator[Check]:
    """The stem, layer by layer, and the cells of a picture."""
    for path in sorted(folder.glob("b_*.npz")):
        arrays, file = load(path), path.name
        standardise = Standardise()
        standardised = standardise(pictures_of(arrays["image"]))
        yield relative(file, "standardised", last_axis_channels(standardised), arrays["standardised"], FORWARD)
        cells = patchify(standardised)
        yield relative(file, "patches", cells, arrays["patches"], FORWARD)
        yield relative(file, "unpatched", last_axis_channels(unpatchify(cells)), arrays["unpatched"], FORWARD)
        tokens, checks = stem_checks(file, arrays, standardised)
        yield from checks
        positions = grid_positions(tokens.shape[1], tokens.shape[2])
        tokens = tokens.flatten(2).transpose(1, 2) + positions
        yield relative(file, "with_positions", tokens, arrays["with_positions"], FORWARD)


def stem_checks(file: str, arrays: Arrays, x: Tensor) -> tuple[Tensor, list[Check]]:
    """Features behind the stem, [N, D, g, g], and the checks of its layers."""
    kind = "patch" if "patch_out" in arrays else "conv"
    weights = {key.removeprefix("stem."): value for key, value in weights_of(arrays, "encoder").items()}
    stem = make_stem(kind, arrays["with_positions"].shape[-1])
    stem.load_state_dict(weights)
    if kind == "patch":
        x = stem(x)
        flat = x.flatten(2).transpose(1, 2)
        return x, [relative(file, "patch_out", flat, arrays["patch_out"], FORWARD)]
    checks = []
    for number, layer in enumerate(stem):
        x = layer(x)
        if isinstance(layer, nn.ReLU):
            name = f"stem_{number // 2}"
            checks.append(relative(file, name, last_axis_channels(x), arrays[name], FORWARD))
    checks.append(relative(file, "stem_out", last_axis_channels(x), arrays["stem_out"], FORWARD))
    return x, checks


def replay_c(folder: Path) -> Iterator[Check]:
    """Masks of given noise: tokens that stay, hidden ones, and the way back."""
    for path in sorted(folder.glob("c_*.npz")):
        arrays = load(path)
        for key in arrays:
            if not key.endswith("_noise"):
                continue
            case = key.removesuffix("noise")
            ratio, tube = (int(number) for number in re.findall(r"\d+", case))
            yield from mask_checks(path.name, case, arrays, ratio / 100, tube)


def mask_checks(file: str, case: str, arrays: Arrays, ratio: float, tube: int) -> Iterator[Check]:
    noise = torch.from_numpy(arrays[f"{case}noise"]).repeat_interleave(tube, dim=0)
    tokens = torch.from_numpy(arrays[f"{case}x"])
    mask = Mask(noise, ratio)
    kept = mask.drop(tokens)
    yield exact(file, f"{case}kept", kept, arrays[f"{case}kept"])
    yield exact(file, f"{case}mask", mask.hidden, arrays[f"{case}mask"])
    yield exact(file, f"{case}ids_restore", mask.restore, arrays[f"{case}ids_restore"])
    restored = mask.fill(kept, torch.full(tokens.shape[-1:], -7.0))
    expected = torch.where(mask.hidden.unsqueeze(-1), -7.0, tokens)
    yield exact(file, f"{case}restored", restored, expected)


def replay_d(folder: Path) -> Iterator[Check]:
    """The autoencoder's whole loss, whatever its stem, ratio and reward, with all gradients."""
    sizes = read_sizes(folder)
    for path in sorted(folder.glob("d_*.npz")):
        arrays, file = load(path), path.name
        model = make_autoencoder(sizes, arrays)
        pictures = pictures_of(arrays["image"]).flatten(0, 1)
        noise, rewards = torch.from_numpy(arrays["noise"]), torch.from_numpy(arrays["reward"]).flatten()
        mask = model.mask(noise)
        yield exact(file, "mask", mask.hidden, arrays["mask"])
        yield exact(file, "ids_restore", mask.restore, arrays["ids_restore"])
        with torch.no_grad():
            encoded = model.encoder(model.standardise(pictures), mask)
            pixels, reward = model.decoder(encoded, mask)
            yield relative(file, "encoded", encoded, arrays["encoded"], FORWARD)
            yield relative(file, "features", model.features(pictures), arrays["features_unmasked"], FORWARD)
            yield relative(file, "pred", pixels, arrays["pred"], FORWARD)
            if "reward_pred" in arrays:
                yield relative(file, "reward_pred", reward, arrays["reward_pred"].ravel(), FORWARD)
        loss, metrics = model.loss(pictures, rewards, noise)
        loss.backward()
        yield relative(file, "loss", loss.detach(), arrays["loss"], FORWARD)
        for name, value in metrics.items():
            yield relative(file, name, value.detach(), arrays[name], FORWARD)
        for part in ("encoder", "decoder"):
            yield from gradient_checks(file, getattr(model, part), arrays, part)


def make_autoencoder(sizes: dict, arrays: Arrays, mark: str = "w") -> Autoencoder:
    """The autoencoder of the weights `mark:` of a file."""
    keys = " ".join(arrays)
    section = make_section(
        sizes,
        stem="patch" if "encoder_patch_embed" in keys else "conv",
        reward_prediction="vit_reward_pred" in keys,
        mask_ratio=float(arrays.get("mask_ratio", 0.75)),
    )
    model = Autoencoder(section, sizes["picture"])
    for part in ("encoder", "decoder"):
        fill(getattr(model, part), arrays, part, mark)
    return model


def gradient_checks(file: str, module: nn.Module, arrays: Arrays, name: str) -> Iterator[Check]:
    """All gradients of a module against `g:name/...`."""
    gradients = {key: parameter.grad for key, parameter in module.named_parameters()}
    for key, expected in weights_of(arrays, name, "g").items():
        yield relative(file, f"grad {name} {key}", gradients.pop(key), expected, GRADIENT)
    yield exact(file, f"weights of {name} without a gradient", len(gradients), 0)
