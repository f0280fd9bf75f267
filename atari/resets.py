"""Periodic resets of the networks (Nikishin et al. 2022; D'Oro et al. 2023; Schwarzer et al. 2023).

Fresh weights come from modules that are drawn for the purpose. All is changed in place, so that a recorded update
reads the new values.
"""

from collections.abc import Mapping

import torch
from torch import nn

from atari.config import ResetConfig
from auxiliaries.slot import Auxiliary

OUTPUTS = ("advantage_out", "value_out")  # last layers of a head


def number_due(config: ResetConfig | None, step: int) -> int:
    """Number, from 1 on, of the reset that follows the updates of iteration `step`; 0 where none does.

    The period is `every` + 1, as released. None falls into the last `every` steps before `none_after`.
    """
    if config is None or config.every == 0 or not 0 < step <= config.none_after - config.every:
        return 0
    number, rest = divmod(step, config.every + 1)
    return 0 if rest else number


def reset_networks(config: ResetConfig, networks: nn.ModuleDict, fresh: nn.ModuleDict) -> None:
    """Resets `encoder` and `head` of `networks` with the weights of `fresh`."""
    if config.scope == "last_layers":
        for name in OUTPUTS:
            redraw(networks["head"].get_submodule(name), fresh["head"].get_submodule(name))
    else:
        shrink_and_perturb(networks["encoder"], fresh["encoder"], config.shrink, config.perturb)
        redraw(networks["head"], fresh["head"])


def reset_auxiliary(
    config: ResetConfig, auxiliary: Auxiliary, fresh: Auxiliary, followed: Mapping[str, nn.Module]
) -> None:
    """Resets the modules of an auxiliary, and copies into its targets the modules that they follow.

    followed: the agent's, by the name of the target. Any other target follows the auxiliary's own module of its name.
    """
    if config.scope == "last_layers":
        return
    for name, module in auxiliary.owned.items():
        if name in auxiliary.heads or config.auxiliary == "redraw":
            redraw(module, fresh.owned[name])
        elif config.auxiliary == "shrink":
            shrink_and_perturb(module, fresh.owned[name], config.shrink, config.perturb)
    for name, target in auxiliary.targets.items():
        if list(target.parameters()):  # a projector may be the identity
            redraw(target, followed[name] if name in followed else auxiliary.owned[name])


@torch.no_grad()
def redraw(module: nn.Module, fresh: nn.Module) -> None:
    for weight, new in zip(module.parameters(), fresh.parameters(), strict=True):
        weight.copy_(new)


@torch.no_grad()
def shrink_and_perturb(module: nn.Module, fresh: nn.Module, shrink: float, perturb: float) -> None:
    for weight, new in zip(module.parameters(), fresh.parameters(), strict=True):
        weight.mul_(shrink).add_(new.to(weight.device), alpha=perturb)
