"""Predict the time of an update on an H200 from its recorded operations: python -m studies.gpu_prediction

An update at full size runs on torch's meta device, which records every operation and computes none. Each becomes
seconds by bytes or operations at the rates of configs/gpu_prediction.yaml. The table has the update as torch computes
it and as the fused kernels do. It is a prediction: no GPU was asked.
"""

import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
import yaml
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.convolution import ConvReLU
from harness.files import CONFIGS
from harness.operations import built_on_meta
from harness.optimizers import Adam, adam_parameters
from harness.shadow import shadowable
from harness.spans import listening
from mlr.augmentation import RandomCrop
from recipes import COMMANDS, load_recipe
from studies.auxiliaries import ACTIONS, TASKS
from studies.speed.measure import ADAM_BYTES, CLIPPED_ADAM_BYTES

SUITES = {"dmcontrol": "DMControl", "atari": "Atari"}
FLOAT, HALF = 4, 2  # bytes
CAST = FLOAT + HALF
# Bytes of a weight with a shadow: gradient for the norm; gradient, weight, moments read; all but the gradient written.
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
    "starts of kernels", "starts that two streams hide",
)  # fmt: skip
STARTS = ROWS[-2]


@dataclass
class Work:
    """Bytes by row, floating-point operations by kind of product, and kernels."""

    moved: Counter = field(default_factory=Counter)
    flops: Counter = field(default_factory=Counter)
    kernels: int = 0


@dataclass
class Recording(TorchDispatchMode):
    """Work that runs within it, in sections: of the first stream and beside it of the second. Stands for a `Side`."""

    weights: set[int]  # storages of trained or copied parameters
    fused: bool
    sections: list[tuple[Work, Work]] = field(default_factory=lambda: [(Work(), Work())])
    part: str = ""

    def __post_init__(self):
        super().__init__()
        self.now = self.sections[0][0]

    @contextmanager
    def fork(self):
        if not self.sections[-1][1].kernels:
            self.join()
        first, self.now = self.sections[-1]
        yield
        self.now = first

    def join(self):
        self.sections.append((Work(), Work()))
        self.now = self.sections[-1][0]

    def __hash__(self):
        return id(self)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name == "convolution":  # a GPU keeps the layout of the pixels; the meta device does not
            result = result.contiguous(memory_format=torch.channels_last)
        if name not in FREE:
            self.count(name, args, kwargs or {}, result)
        return result

    def count(self, name: str, args: tuple, kwargs: dict, result) -> None:
        read = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        written = [each for each in tree_leaves(result) if isinstance(each, Tensor)]
        self.now.kernels += 1
        if name == "convolution":
            self._convolution(*args[:3], result)
        elif name == "convolution_backward":
            self._convolution_backward(*args[:3], args[-1])
        elif name in PRODUCTS:
            left, right = args[-2:]
            self.now.flops["product"] += 2 * result.numel() * left.shape[-1]
            self._cast(left, right)
        elif name in {"relu", "relu_"} and self.fused and read[0].dim() == 4:
            self.now.kernels -= 1  # within the convolution
        elif name in {"relu", "relu_"}:
            self.now.moved["biases and ReLUs"] += 2 * held(result)
        elif name == "threshold_backward":
            self.now.moved["biases and ReLUs, backward"] += 3 * held(result)
        else:
            row = "the rest"
            if self.part == "augment":
                row = "crops and brightness"
            elif name.startswith("_foreach"):
                row = "Adam, norms, momentum copies"
            size = 2 * sum(map(held, written)) if name in GATHERS else sum(map(held, read + written))
            self.now.moved[row] += size

    def _convolution(self, maps: Tensor, weight: Tensor, bias: Tensor | None, result: Tensor) -> None:
        self.now.flops["forward"] += 2 * result.numel() * weight[0].numel()
        if bias is not None and not self.fused:
            self.now.moved["biases and ReLUs"] += 2 * held(result)
            self.now.kernels += 1
        if self.part != "augment" and not self.fused and weight.shape[1] < 16:  # pixels; the kernel writes bf16
            self.now.moved["casts to bf16"] += CAST * maps.numel()
        self._cast(weight)

    def _convolution_backward(self, gradient: Tensor, maps: Tensor, weight: Tensor, wanted: list[bool]) -> None:
        operations = 2 * gradient.numel() * weight[0].numel()
        for kind, want in zip(("input", "weight"), wanted[:2], strict=True):
            self.now.flops[kind] += operations * want
        if wanted[2] and not self.fused:  # fused, it comes with the ReLU's pass
            self.now.moved["biases and ReLUs, backward"] += held(gradient)
        self.now.kernels += sum(wanted) - 1

    def _cast(self, *operands: Tensor) -> None:
        """Weights are read in float32 and written in bf16 for each product that takes them."""
        for operand in operands:
            if operand.untyped_storage()._cdata in self.weights:
                self.now.moved["casts to bf16"] += CAST * operand.numel()


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
        recording.now.kernels += 1
        recording.now.moved["crops and brightness"] += images.numel() + HALF * shape[0] * channels * self.crop_size**2
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

        for name, optimizer in agent.optimizers.items():
            optimizer.step = partial(count_adam, recording, optimizer, shadowed[name])
        if fused:
            agent.side = recording
        with listening(tell), recording:
            if fused:
                with kernels_of_a_gpu(agent, recording):
                    agent.update_on_device(replay, *variant)
            else:
                agent.update_on_device(replay, *variant)
    return [recordings[variant] for variant in agent.cycle]


def count_adam(recording: Recording, optimizer: Adam, shadowed: int) -> None:
    """Bytes of a step, which torch does not take on the meta device; `shadowed` of its values have a shadow."""
    trained = sum(parameter.numel() for parameter in adam_parameters(optimizer)) - shadowed
    each = CLIPPED_ADAM_BYTES if hasattr(optimizer, "grad_scale") else ADAM_BYTES
    moved = recording.now.moved
    moved["Adam, norms, momentum copies"] += trained * each + shadowed * SHADOWED_ADAM_BYTES
    moved["casts to bf16"] += trained * CAST  # their gradients, back to float32


def load_spaces(suite: str, config):
    import numpy as np
    from gymnasium.spaces import Box

    from harness.recipe import Spaces

    return Spaces(Box(0, 255, config.observation_shape, np.uint8), ACTIONS[suite])


def predict(recordings: list[Recording], precision: str, rates: dict) -> dict[str, float]:
    """Seconds of an update by row, the mean over a cycle.

    Two streams share the GPU's rates. Starts of one are hidden as far as the other has work meanwhile.
    """
    found = dict.fromkeys(ROWS, 0.0)
    for recording in recordings:
        for section in recording.sections:
            both = [seconds(work, precision, rates, recording.fused) for work in section]
            for row in ROWS[:-1]:
                found[row] += sum(share[row] for share in both) / len(recordings)
            starts = [share[STARTS] for share in both]
            busy = [sum(share.values()) - start for share, start in zip(both, starts, strict=True)]
            lasts = max(sum(busy), *(each + start for each, start in zip(busy, starts, strict=True)))
            found[ROWS[-1]] -= (sum(busy) + sum(starts) - lasts) / len(recordings)
    return found


def seconds(work: Work, precision: str, rates: dict, fused: bool) -> dict[str, float]:
    """Seconds of some work by row."""
    flops, short = rates["flops_per_second"][precision], precision == "bf16"
    share = {row: work.moved[row] / rates["bytes_per_second"] for row in ROWS[:-1]}
    for row in ("biases and ReLUs", "biases and ReLUs, backward"):
        share[row] *= HALF / FLOAT if short else 1
    share["casts to bf16"] *= short
    if fused and not short:  # the kernel writes float32
        share["crops and brightness"] *= 2
    share["convolutions, forward"] = work.flops["forward"] / flops["forward"]
    share["convolutions, backward"] = sum(work.flops[kind] / flops[kind] for kind in ("input", "weight"))
    share["products of linear layers"] = work.flops["product"] / flops["product"]
    share[STARTS] = work.kernels * rates["seconds_per_kernel"]
    return share


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
