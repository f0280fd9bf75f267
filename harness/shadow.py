"""Linear layers whose products read a bfloat16 shadow of the weight, where a GPU keeps one.

Autocast casts a float32 weight for each product, and the weight's gradient back to float32. A shadow holds the cast
values, its gradient stays bfloat16, and Adam's pass (`harness/adam_kernel.py`) writes weight and shadow at once. The
roundings are those of autocast where an update has one product with each weight.
"""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.fused import Compute, reason_against
from harness.optimizers import Adam, adam_parameters, clip_in_step, make_adam

COMPARED_VALUES = 2**22


class ShadowedLinear(nn.Linear):
    """nn.Linear; its products read `shadow`, a leaf outside the layer's state, where `shadow_weights` made one."""

    shadow: Tensor | None = None

    @property
    def operand(self) -> Tensor:
        """The weight as products read it."""
        return self.weight if self.shadow is None else self.shadow

    def forward(self, inputs: Tensor) -> Tensor:
        return F.linear(inputs, self.operand, self.bias)


def shadow_weights(
    module: nn.Module, optimizers: Iterable[Adam], precision: str, seconds: Callable[[Compute], float]
) -> dict[str, str]:
    """Gives `shadowable` layers of `module` shadows if products are in bf16 and Adam's one pass agrees and is faster.

    Returns reasons against, by optimiser. Whoever changes weights outside of a step calls `Adam.write_shadows`.
    """
    reasons = {}
    for optimizer in optimizers if precision == "bf16" else ():
        layers = shadowable(module, optimizer)
        if layers:
            name = f"Adam of {len(layers)} weights"
            reasons[name] = reason_against_one_pass(optimizer, layers[0].weight.device, precision, seconds)
            if not reasons[name]:
                give_shadows(layers, optimizer)
    return reasons


def shadowable(module: nn.Module, optimizer: Adam) -> list[ShadowedLinear]:
    """Layers of `module` that an optimiser steps; none where it decays weights, has no clip or a rate that changes."""
    settings, trained = optimizer.param_groups[0], set(adam_parameters(optimizer))
    if settings["weight_decay"] or isinstance(settings["lr"], Tensor) or not hasattr(optimizer, "grad_scale"):
        return []
    return [each for each in module.modules() if isinstance(each, ShadowedLinear) and each.weight in trained]


def give_shadows(layers: list[ShadowedLinear], optimizer: Adam) -> None:
    for layer in layers:
        layer.shadow = layer.weight.detach().bfloat16().requires_grad_()
    betas = torch.tensor(optimizer.param_groups[0]["betas"], dtype=torch.float64)
    optimizer.log_betas = betas.log().float().to(layers[0].weight.device)
    optimizer.shadows = [(layer.weight, layer.shadow) for layer in layers]


def reason_against_one_pass(
    optimizer: Adam, device: torch.device, precision: str, seconds: Callable[[Compute], float]
) -> str:
    """Compares two clipped steps of weights of `COMPARED_VALUES` with an optimiser's settings."""
    settings = optimizer.param_groups[0]
    generator = torch.Generator(device).manual_seed(0)
    start, gradient = (torch.randn(1024, COMPARED_VALUES // 1024, generator=generator, device=device) for _ in range(2))

    def steps(shadowed: bool) -> Compute:
        layer = ShadowedLinear(1, 1, bias=False)
        layer.weight = nn.Parameter(start.clone())
        adam = make_adam([layer.weight], settings["lr"], settings["betas"], settings["eps"], clipped=True)
        if shadowed:
            give_shadows([layer], adam)

        def work() -> list[Tensor]:
            for _ in range(2):
                if shadowed:
                    layer.shadow.grad = gradient.bfloat16()
                else:
                    layer.weight.grad = gradient.bfloat16().float()
                norm = clip_in_step(adam, 1.0)
                adam.step()
            moments = (adam.state[layer.weight][name] for name in ("exp_avg", "exp_avg_sq"))
            differs = layer.operand.bfloat16().float() - layer.weight.bfloat16().float()  # not at all
            return [norm, *(each.clone() for each in moments), start - layer.weight, differs]

        return work

    return reason_against(steps(True), steps(False), precision, seconds)
