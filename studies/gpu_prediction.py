"""Predict the time of an update on an H200 from its recorded operations: python -m studies.gpu_prediction

An update at full size runs on torch's meta device, which records every operation and computes none. Each becomes
seconds by bytes or operations at the rates of configs/gpu_prediction.yaml. The table has the update as torch computes
it and as the fused kernels do. It is a prediction: no GPU was asked.
"""

import sys
from collections import Counter, defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import mean

import torch
import yaml
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.convolution import ConvReLU
from harness.files import CONFIGS
from harness.operations import built_on_meta
from harness.optimizers import adam_parameters
from harness.shadow import shadowable
from harness.spans import listening
from mlr.augmentation import RandomCrop
from recipes import COMMANDS, load_recipe
from studies.auxiliaries import ACTIONS, TASKS
from studies.speed.measure import ADAM_BYTES, CLIPPED_ADAM_BYTES

SUITES = {"dmcontrol": "DMControl", "atari": "Atari"}
FLOAT, HALF = 4, 2  # bytes
CAST = FLOAT + HALF
# Of a weight with a shadow: its gradient's norm; then gradient, weight and moments read; then all but the gradient.
SHADOWED_ADAM_BYTES = HALF + (HALF + 3 * FLOAT) + (3 * FLOAT + HALF)
# Operations that launch nothing: they only look at memory in another way, or reserve it.
FREE = {
    "view", "_unsafe_view", "reshape", "expand", "permute", "transpose", "t", "slice", "select", "unsqueeze", "squeeze",
    "detach", "alias", "as_strided", "split", "split_with_sizes", "unbind", "unfold", "diagonal", "_reshape_alias",
    "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "lift_fresh", "view_as",
}  # fmt: skip
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm"}
GATHERS = {"index_select", "index", "gather", "embedding"}
ROWS = (
    "convolutions, forward", "convolutions, backward", "biases and ReLUs", "biases and ReLUs, backward",
    "crops and brightness", "products of linear layers", "casts to bf16", "Adam, norms, momentum copies", "the rest",
    "starts of kernels",
)  # fmt: skip


@dataclass
class Recording(TorchDispatchMode):
    """Bytes by row and floating-point operations by kind of product, of what runs within it."""

    weights: set[int]  # storages of trained or copied parameters
    fused: bool
    moved: Counter = field(default_factory=Counter)
    flops: Counter = field(default_factory=Counter)
    kernels: int = 0
    part: str = ""

    def __post_init__(self):
        super().__init__()

    def __hash__(self):
        return id(self)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name not in FREE:
            self.count(name, args, kwargs or {}, result)
        return result

    def count(self, name: str, args: tuple, kwargs: dict, result) -> None:
        read = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        written = [each for each in tree_leaves(result) if isinstance(each, Tensor)]
        self.kernels += 1
        if name == "convolution":
            self._convolution(*args[:3], result)
        elif name == "convolution_backward":
            self._convolution_backward(*args[:3], args[-1])
        elif name in PRODUCTS:
            left, right = args[-2:]
            self.flops["product"] += 2 * result.numel() * left.shape[-1]
            self._cast(left, right)
        elif name in {"relu", "relu_"} and self.fused and read[0].dim() == 4:
            self.kernels -= 1  # within the convolution
        elif name in {"relu", "relu_"}:
            self.moved["biases and ReLUs"] += 2 * held(result)
        elif name == "threshold_backward":
            self.moved["biases and ReLUs, backward"] += 3 * held(result)
        else:
            row = "the rest"
            if self.part == "augment":
                row = "crops and brightness"
            elif name.startswith("_foreach"):
                row = "Adam, norms, momentum copies"
            size = 2 * sum(map(held, written)) if name in GATHERS else sum(map(held, read + written))
            self.moved[row] += size

    def _convolution(self, maps: Tensor, weight: Tensor, bias: Tensor | None, result: Tensor) -> None:
        self.flops["forward"] += 2 * result.numel() * weight[0].numel()
        if bias is not None and not self.fused:
            self.moved["biases and ReLUs"] += 2 * held(result)
            self.kernels += 1
        if self.part != "augment" and not self.fused and weight.shape[1] < 16:  # pixels; the kernel writes bf16
            self.moved["casts to bf16"] += CAST * maps.numel()
        self._cast(weight)

    def _convolution_backward(self, gradient: Tensor, maps: Tensor, weight: Tensor, wanted: list[bool]) -> None:
        operations = 2 * gradient.numel() * weight[0].numel()
        for kind, want in zip(("input", "weight"), wanted[:2], strict=True):
            self.flops[kind] += operations * want
        if wanted[2] and not self.fused:  # fused, it comes with the ReLU's pass
            self.moved["biases and ReLUs, backward"] += held(gradient)
        self.kernels += sum(wanted) - 1

    def _cast(self, *operands: Tensor) -> None:
        """Weights are read in float32 and written in bf16 for each product that takes them."""
        for operand in operands:
            if operand.untyped_storage()._cdata in self.weights:
                self.moved["casts to bf16"] += CAST * operand.numel()


def held(tensor: Tensor) -> int:
    """Bytes of a tensor's distinct values."""
    count = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride else 1
    return count * tensor.element_size()


@contextmanager
def kernels_of_a_gpu(agent, recording: Recording):
    """The fused ways, with the crop's kernel as one operation that moves its bytes."""

    def crop(self: RandomCrop, images: Tensor, offsets: Tensor, factor, dtype: torch.dtype) -> Tensor:
        channels = max(8, 1 << (images.shape[1] - 1).bit_length())
        shape = (len(images), channels, self.crop_size, self.crop_size)
        recording.kernels += 1
        recording.moved["crops and brightness"] += images.numel() + HALF * shape[0] * channels * self.crop_size**2
        return torch.empty(shape, device=images.device, memory_format=torch.channels_last)

    crops = [each for each in (getattr(agent, "_random_crop", None), getattr(agent._augment, "crop", None)) if each]
    channels = next(layer[0].in_channels for layer in agent.encoder.modules() if isinstance(layer, ConvReLU))
    before = RandomCrop._by_kernel
    RandomCrop._by_kernel = crop
    for each in crops:
        each._fused = channels, torch.float32
    try:
        yield
    finally:
        RandomCrop._by_kernel = before


def record(suite: str, preset: str, auxiliary: str, fused: bool, precision: str = "bf16") -> list[Recording]:
    """An update's recording for each of a cycle."""
    settings = [TASKS[suite], f"preset={preset}", f"auxiliary={auxiliary}", "device=cpu"]
    return record_config(suite, COMMANDS[suite].resolve(settings), fused, shadows=fused and precision == "bf16")


def record_config(suite: str, config, fused: bool, shadows: bool = False) -> list[Recording]:
    """An update's recording for each of a cycle, of any configuration."""
    spaces = load_spaces(suite, config)
    agent, replay = built_on_meta(load_recipe(config).method, config, spaces)
    modules = [agent.networks, *([agent.auxiliary.owned, agent.auxiliary.targets] if agent.auxiliary else [])]
    weights = {weight.untyped_storage()._cdata for module in modules for weight in module.parameters()}
    shadowed = {}
    for name, optimizer in agent.optimizers.items():
        layers = shadowable(agent.auxiliary.owned, optimizer) if shadows and agent.auxiliary else []
        shadowed[name] = sum(layer.weight.numel() for layer in layers)
        weights -= {layer.weight.untyped_storage()._cdata for layer in layers}  # products read the shadow
    recordings = {}
    for variant in dict.fromkeys(agent.cycle):
        recording = recordings[variant] = Recording(weights, fused)

        def tell(part: str, recording: Recording = recording) -> None:
            recording.part = part

        with listening(tell), recording:
            if fused:
                with kernels_of_a_gpu(agent, recording):
                    agent.update_on_device(replay, *variant)
            else:
                agent.update_on_device(replay, *variant)
        for name, optimizer in agent.optimizers.items():  # which take no step there
            trained = sum(parameter.numel() for parameter in adam_parameters(optimizer)) - shadowed[name]
            each = CLIPPED_ADAM_BYTES if hasattr(optimizer, "grad_scale") else ADAM_BYTES
            adam = trained * each + shadowed[name] * SHADOWED_ADAM_BYTES
            recording.moved["Adam, norms, momentum copies"] += adam
            recording.moved["casts to bf16"] += trained * CAST  # their gradients, back to float32
    return [recordings[variant] for variant in agent.cycle]


def load_spaces(suite: str, config):
    import numpy as np
    from gymnasium.spaces import Box

    from harness.recipe import Spaces

    return Spaces(Box(0, 255, config.observation_shape, np.uint8), ACTIONS[suite])


def predict(recordings: list[Recording], precision: str, rates: dict) -> dict[str, float]:
    """Seconds of an update by row, the mean over a cycle."""
    flops, short = rates["flops_per_second"][precision], precision == "bf16"
    found = defaultdict(list)
    for recording in recordings:
        share = {row: size / rates["bytes_per_second"] for row, size in recording.moved.items()}
        for row in ("biases and ReLUs", "biases and ReLUs, backward"):
            share[row] = share.get(row, 0.0) * (HALF / FLOAT if short else 1)
        share["casts to bf16"] = share.get("casts to bf16", 0.0) * short
        if recording.fused and not short:  # the kernel writes float32
            share["crops and brightness"] *= 2
        share["convolutions, forward"] = recording.flops["forward"] / flops["forward"]
        backward = (recording.flops[kind] / flops[kind] for kind in ("input", "weight"))
        share["convolutions, backward"] = sum(backward)
        share["products of linear layers"] = recording.flops["product"] / flops["product"]
        share["starts of kernels"] = recording.kernels * rates["seconds_per_kernel"]
        for row in ROWS:
            found[row].append(share.get(row, 0.0))
    return {row: mean(values) for row, values in found.items()}


def table(preset: str = "full", auxiliary: str = "mlr", precision: str = "bf16") -> list[str]:
    rates = yaml.safe_load((CONFIGS / "gpu_prediction.yaml").read_text())
    columns = {}
    for suite, label in SUITES.items():
        for fused in (False, True):
            recordings = record(suite, preset, auxiliary, fused, precision)
            columns[f"{label}, {'fused' if fused else 'torch'}"] = predict(recordings, precision, rates)
    lines = [f"| ms, {precision} | {' | '.join(columns)} |", f"|{'---|' * (len(columns) + 1)}"]
    for row in ROWS:
        lines.append(f"| {row} | {' | '.join(f'{1000 * values[row]:.2f}' for values in columns.values())} |")
    totals = (f"**{1000 * sum(values.values()):.1f}**" for values in columns.values())
    return [*lines, f"| **update** | {' | '.join(totals)} |"]


def main() -> int:
    for precision in ("bf16", "tf32"):
        print(*table(precision=precision), "", sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
