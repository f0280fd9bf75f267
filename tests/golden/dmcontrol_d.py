"""Replays d (the pixel encoder, stage by stage) of a folder of DMControl reference files."""

import re
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from dmcontrol.networks import PixelEncoder
from tests.golden.check import Arrays, Check, by_case, exact, load, named, relative
from tests.golden.dmcontrol_weights import load_reference

TOLERANCE = 2e-5


@torch.no_grad()
def replay_d(folder: Path) -> Iterator[Check]:
    """Stages and latents of the critic's encoder, and the latents of the other three."""
    for path in sorted(folder.glob("d_*.npz")):
        arrays = load(path)
        for case, own in by_case(arrays, "output").items():
            yield from named(case, case_checks(path.name, own, folder))


def case_checks(file: str, arrays: Arrays, folder: Path) -> Iterator[Check]:
    reference = load_reference(folder, arrays)
    agent = reference.agent
    pixels = reference.batch.obs[: len(arrays["output"])]
    stages = record(agent.encoder, pixels)
    for name, values in stages.items():
        if f"shape/{name}" in arrays:
            yield exact(file, f"{name} shape", values.shape, arrays[f"shape/{name}"])
        if f"stage/{name}_mean_l2" in arrays:
            mean_l2 = (values.double().mean(), values.double().norm())
            yield relative(file, f"{name} mean and L2", mean_l2, arrays[f"stage/{name}_mean_l2"], TOLERANCE)
    for name in arrays:
        if match := re.match(r"(conv\d+)_channel(\d+)_image(\d+)", name):
            values = stages[match[1]][int(match[3]), int(match[2]), : len(arrays[name]), : arrays[name].shape[1]]
            yield relative(file, name, values, arrays[name], TOLERANCE)
    outputs = {
        "fc_out": stages["fc"],
        "output": agent.encoder(pixels),
        "output_actor": agent.actor.latent(agent.encoder.convolutions(pixels)),
        "output_critic_target": agent.target_encoder(pixels),
        "output_mlr_target": agent.auxiliary.targets["encoder"](pixels),
        "output_float64": agent.encoder(pixels),
    }
    for name, values in outputs.items():
        if name in arrays:
            yield relative(file, name, values, arrays[name], TOLERANCE)


def record(encoder: PixelEncoder, pixels: Tensor) -> dict[str, Tensor]:
    """The scaled input and the output of every stage, by the reference's names."""
    outputs = {"obs": pixels / 255}
    stages = {**encoder.convolutions.stages, "fc": encoder.latent.fc, "ln": encoder.latent.ln}
    hooks = [
        stage.register_forward_hook(lambda module, inputs, output, name=name: outputs.update({name: output}))
        for name, stage in stages.items()
    ]
    encoder(pixels)
    for hook in hooks:
        hook.remove()
    return outputs
