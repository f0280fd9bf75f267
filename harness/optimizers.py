"""Adam whose state exists before its first step, so that a checkpoint is copied into it and nothing is rebound."""

from collections.abc import Container, Iterable, Sequence
from inspect import unwrap

import torch
from torch import Tensor, nn

_step, _zero_grad = unwrap(torch.optim.Adam.step), unwrap(torch.optim.Adam.zero_grad)


class Adam(torch.optim.Adam):
    """torch's, except that its methods leave torch's compiler alone: importing that takes as long as torch itself.

    Products may read bfloat16 `shadows` in the place of some weights (`harness/shadow.py`). Gradients are then theirs.
    """

    shadows: Sequence[tuple[nn.Parameter, Tensor]] = ()
    log_betas: Tensor  # float32 [2], where there are shadows

    add_param_group = unwrap(torch.optim.Adam.add_param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        _zero_grad(self, set_to_none)
        for _, shadow in self.shadows:
            shadow.grad = None

    @torch.no_grad()
    def step(self) -> None:
        pairs = [(weight, shadow) for weight, shadow in self.shadows if shadow.grad is not None]
        if pairs and pairs[0][0].is_cuda:
            self._pass(pairs)
            pairs = []
        for weight, shadow in pairs:
            weight.grad = shadow.grad.float()
        _step(self)
        for weight, shadow in pairs:
            weight.grad = None
            shadow.copy_(weight)

    def _pass(self, pairs: Sequence[tuple[nn.Parameter, Tensor]]) -> None:
        from harness.adam_kernel import adam_pass  # imports Triton

        states = [self.state[weight] for weight, _ in pairs]
        adam_pass(pairs, states, self.param_groups[0], self.grad_scale, self.log_betas)

    @torch.no_grad()
    def write_shadows(self) -> None:
        """Copies weights that something else than a step changed."""
        for weight, shadow in self.shadows:
            shadow.copy_(weight)


def make_adam(
    parameters: Iterable[nn.Parameter] | list[dict],
    lr: float | Tensor,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float = 0.0,
    decoupled_decay: float = 0.0,
    clipped: bool = False,
) -> Adam:
    """Adam that runs as one kernel and can be captured; `lr` may be a tensor that changes in place.

    `parameters` may be torch's parameter groups. `clipped`: its steps come after a `clip_in_step`.
    `weight_decay` is added to gradients. `decoupled_decay` makes it AdamW, on parameters of more than one axis alone.
    """
    settings: dict = {"lr": lr, "betas": betas, "eps": eps, "fused": True, "capturable": True}
    if decoupled_decay:
        every = list(parameters)
        matrices, vectors = ([each for each in every if (each.ndim > 1) == wanted] for wanted in (True, False))
        groups = ((matrices, decoupled_decay), (vectors, 0.0))
        given = [{"params": group, "weight_decay": decay} for group, decay in groups if group]
        optimizer = Adam(given, decoupled_weight_decay=True, **settings)
    else:
        optimizer = Adam(parameters, weight_decay=weight_decay, **settings)
    for parameter in adam_parameters(optimizer):
        optimizer.state[parameter] = {
            "step": torch.zeros((), device=parameter.device),
            "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
        }
    if clipped:
        optimizer.grad_scale = torch.ones((), dtype=torch.float32, device=adam_parameters(optimizer)[0].device)
    return optimizer


def adam_leaves(optimizer: Adam) -> list[Tensor]:
    """Tensors whose gradients a step reads: parameters, or their shadows."""
    shadows = dict(optimizer.shadows)
    return [shadows.get(parameter, parameter) for parameter in adam_parameters(optimizer)]


def adam_parameters(optimizer: Adam) -> list[nn.Parameter]:
    """Parameters of an optimiser, in its order."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


@torch.no_grad()
def clip_in_step(optimizer: Adam, max_norm: float) -> Tensor:
    """Lets the next step take the gradients at a norm of at most `max_norm`; returns the norm that they have, [].

    The optimiser is a `clipped` one of `make_adam`.

    The step divides them while it reads them, and writes them back divided, where torch's `clip_grad_norm_` goes over
    them once more before it. The factor is the same up to rounding.
    """
    gradients = [parameter.grad for parameter in adam_parameters(optimizer) if parameter.grad is not None]
    norms = torch._foreach_norm(gradients) if gradients else ()
    halves = [shadow.grad for _, shadow in optimizer.shadows if shadow.grad is not None]
    if halves:
        norms += torch._foreach_norm(halves, 2, torch.float32)
    norm = torch.linalg.vector_norm(torch.stack(norms))
    optimizer.grad_scale.copy_(((norm + 1e-6) / max_norm).clamp(min=1.0))
    return norm


def clear_adam(optimizer: Adam, kept: Container[int] = ()) -> None:
    """Puts moments and step counts back to zero, in place, but those of parameters whose id is `kept`."""
    for parameter in adam_parameters(optimizer):
        for value in () if id(parameter) in kept else optimizer.state[parameter].values():
            value.zero_()


def adam_state(optimizer: Adam) -> dict[str, dict[str, Tensor]]:
    """Adam's tensors by the number of the parameter, as references."""
    return {str(index): optimizer.state[parameter] for index, parameter in enumerate(adam_parameters(optimizer))}


def load_adam_state(optimizer: Adam, state: dict[str, dict[str, Tensor]]) -> None:
    """Copies an `adam_state` into the tensors that exist."""
    for index, entry in adam_state(optimizer).items():
        for name, value in entry.items():
            value.copy_(state[index][name])
