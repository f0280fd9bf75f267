"""Convolution, bias and ReLU as one call, where a GPU takes it."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.fused import COMPARED_IMAGES, Compute, reason_against
from harness.pixels import PixelConv2d
from harness.precision import Autocast


class ConvReLU(nn.Sequential):
    """A convolution without padding and its ReLU. `fused` is for a GPU, see `fuse_convolutions`."""

    def __init__(self, convolution: nn.Conv2d):
        super().__init__(convolution, nn.ReLU())
        self.fused = False

    def forward(self, maps: Tensor) -> Tensor:
        return conv_relu(maps, self[0]) if self.fused else super().forward(maps)

    @property
    def geometry(self) -> tuple:
        layer = self[0]
        return layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride


class FusedConvReLU(torch.autograd.Function):
    """relu(conv(maps, weight) + bias); keeps the maps, the weight and the result for the backward pass."""

    @staticmethod
    def forward(ctx, maps: Tensor, weight: Tensor, bias: Tensor, stride: tuple[int, int]) -> Tensor:
        if maps.is_cuda:
            result = torch.cudnn_convolution_relu(maps, weight, bias, stride, (0, 0), (1, 1), 1)
        else:
            result = F.conv2d(maps, weight, bias, stride).relu_()
        ctx.save_for_backward(maps, weight, result)
        ctx.stride = stride
        return result

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple:
        maps, weight, result = ctx.saved_tensors
        wanted = list(ctx.needs_input_grad[:3])
        if gradient.is_cuda:
            from harness.relu_kernel import relu_backward  # imports Triton

            gradient, of_bias = relu_backward(gradient, result)
            wanted[2] = False
        else:
            gradient, of_bias = torch.ops.aten.threshold_backward(gradient, result, 0), None
        of_maps, of_weight, summed = torch.ops.aten.convolution_backward(
            gradient, maps, weight, [len(weight)], ctx.stride, [0, 0], [1, 1], False, [0, 0], 1, wanted
        )
        return of_maps, of_weight, summed if of_bias is None else of_bias, None


def conv_relu(maps: Tensor, layer: nn.Conv2d) -> Tensor:
    """A layer and its ReLU by `FusedConvReLU`, in autocast's type where that is on."""
    weight = layer.scaled_weight(maps.shape[1]) if isinstance(layer, PixelConv2d) else layer.weight
    inputs = [maps, weight, layer.bias]
    if torch.is_autocast_enabled(maps.device.type):
        inputs = [tensor.to(torch.get_autocast_dtype(maps.device.type)) for tensor in inputs]
    return FusedConvReLU.apply(*inputs, layer.stride)


def fuse_encoder(
    crops: Sequence[Any],
    encoder: nn.Module,
    everywhere: Iterable[nn.Module],
    images: Sequence[int],
    autocast: Autocast,
    precision: str,
    seconds: Callable[[Compute], float],
) -> dict[str, str]:
    """Lets each of `crops`, and each `ConvReLU` in `everywhere`, compute the fused way if that agrees and is faster.

    images: shape [C, H, W] of one that a crop takes; the last crop's results are the encoder's pixels. Returns reasons
    against, by name, empty where it is used.
    """
    device, dtype = next(encoder.parameters()).device, torch.bfloat16 if precision == "bf16" else torch.float32
    generator, shape = torch.Generator(device).manual_seed(0), (COMPARED_IMAGES, *images)
    drawn = torch.randint(256, shape, dtype=torch.uint8, generator=generator, device=device)
    reasons = {f"crop ({crop.mode})": crop.fuse(drawn, dtype, precision, seconds) for crop in crops}
    pixels = crops[-1](drawn, torch.zeros(COMPARED_IMAGES, 2, dtype=torch.int64, device=device))
    return reasons | fuse_convolutions(encoder, everywhere, pixels, autocast, precision, seconds)


def fuse_convolutions(
    encoder: nn.Module,
    everywhere: Iterable[nn.Module],
    pixels: Tensor,
    autocast: Autocast,
    precision: str,
    seconds: Callable[[Compute], float],
) -> dict[str, str]:
    """Lets each `ConvReLU` in `everywhere` compute the fused way if that agrees and is faster.

    Returns reasons against, by layer, empty where it is used. Layers of one geometry are compared once, on what reaches
    them when `encoder` sees `pixels`.
    """
    reached: dict[tuple, tuple[ConvReLU, Tensor]] = {}

    def note(layer: ConvReLU, inputs: tuple[Tensor], output: Tensor) -> None:
        reached.setdefault(layer.geometry, (layer, inputs[0].detach()))

    hooks = [layer.register_forward_hook(note) for layer in encoder.modules() if isinstance(layer, ConvReLU)]
    with torch.no_grad(), autocast():
        encoder(pixels)
    for hook in hooks:
        hook.remove()
    reasons = {}
    for number, (geometry, (layer, maps)) in enumerate(reached.items()):
        needs_gradient = number > 0  # pixels need none

        def compute(fused: bool, layer=layer, maps=maps, needs_gradient=needs_gradient) -> Compute:
            def through(inputs: Tensor) -> Tensor:
                return conv_relu(inputs, layer[0]) if fused else nn.Sequential.forward(layer, inputs)

            def work() -> list[Tensor]:
                inputs = maps.clone().requires_grad_(needs_gradient)
                with autocast():
                    result = through(inputs)
                wanted = [layer[0].weight, layer[0].bias, *([inputs] if needs_gradient else [])]
                acting = maps[:1, : layer[0].in_channels].float()  # one image, without autocast and padded channels
                return [result, *torch.autograd.grad(result.float().square().mean(), wanted), through(acting)]

            return work

        reasons[geometry] = reason_against(compute(True), compute(False), precision, seconds)
    for module in everywhere:
        for layer in module.modules():
            if isinstance(layer, ConvReLU):
                layer.fused = reasons.get(layer.geometry) == ""
    return {f"convolution {geometry[0]} to {geometry[1]}": reason for geometry, reason in reasons.items()}
