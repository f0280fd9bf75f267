"""Periodic resets of SAC (Nikishin et al. 2022), in place.

Scope `heads` keeps the convolutions, those of the targets, and the auxiliary's own modules; `all` keeps nothing.
"""

from collections.abc import Iterable

import torch
from torch import nn

from auxiliaries.slot import Auxiliary
from dmcontrol.config import ResetConfig
from harness.optimizers import Adam, clear_adam


def number_due(config: ResetConfig | None, step: int) -> int:
    """Number, from 1 on, of the reset that follows the updates of iteration `step`; 0 where none does.

    It comes after the evaluation at that many agent steps, so none comes before the end of a run of as many.
    """
    if config is None or config.every == 0:
        return 0
    number, rest = divmod(step, config.every)
    return 0 if rest else number


@torch.no_grad()
def reset(
    scope: str,
    networks: nn.ModuleDict,
    auxiliary: Auxiliary | None,
    fresh: nn.ModuleDict,
    fresh_auxiliary: Auxiliary | None,
    optimizers: Iterable[Adam],
) -> None:
    """Gives `networks` and the auxiliary the weights of fresh ones, and their Adam state back to zero."""
    pairs = [(networks, fresh)]
    kept: list[nn.Module] = []
    if scope == "heads":
        kept = [networks["encoder"].convolutions, networks["target_encoder"].convolutions]
        if auxiliary is not None:
            kept.append(auxiliary.owned)
            if "encoder" in auxiliary.targets:
                pairs.append((auxiliary.targets["encoder"].latent, fresh_auxiliary.targets["encoder"].latent))
    elif auxiliary is not None:
        pairs += [(auxiliary.owned, fresh_auxiliary.owned), (auxiliary.targets, fresh_auxiliary.targets)]
    spared = {id(weight) for module in kept for weight in module.parameters()}
    for module, source in pairs:
        for weight, new in zip(module.parameters(), source.parameters(), strict=True):
            if id(weight) not in spared:
                weight.copy_(new)
    for optimizer in optimizers:
        clear_adam(optimizer, spared)
