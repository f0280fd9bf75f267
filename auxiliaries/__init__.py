"""Auxiliary losses: which there are. `slot.py` says what an agent may ask of one. Nothing here imports torch.

A new one is a file with its schema and a `make`, a file in `configs/auxiliary/`, and a line below.
"""

from collections.abc import Callable, Sequence
from dataclasses import make_dataclass
from functools import partial
from pkgutil import resolve_name
from typing import Any, NamedTuple

from harness.config import RunConfig


class Entry(NamedTuple):
    schema: str  # module:class of its section, which has the auxiliary's name
    make: str  # module:function that builds it from its section and what the agent lends (auxiliaries/slot.py)
    unread: tuple[str, ...] = ()  # sections for auxiliaries that it does not read, of those that the agent has
    windows: bool = True  # reads windows of the replay


OF_VIEWS = ("augmentation", "aux_networks")  # sections that a loss on the RL loss's own views does not read
AUXILIARIES = {
    "mlr": Entry("mlr.config:MLRConfig", "auxiliaries.mlr:Reconstruction"),
    "spr": Entry("auxiliaries.config:SPRConfig", "auxiliaries.spr:SPR", unread=("aux_networks",)),
    "playvirtual": Entry(
        "auxiliaries.config:PlayVirtualConfig", "auxiliaries.playvirtual:PlayVirtual", unread=("aux_networks",)
    ),
    "curl": Entry("auxiliaries.config:CURLConfig", "auxiliaries.curl:CURL", OF_VIEWS, windows=False),
    "autoencoder": Entry(
        "auxiliaries.config:AutoencoderConfig", "auxiliaries.autoencoder:Autoencoder", OF_VIEWS, windows=False
    ),
}
SCHEMAS = {name: entry.schema for name, entry in AUXILIARIES.items()}


def unread(sections: Sequence[str], auxiliary: str) -> list[str]:
    """Names of the agent's sections for auxiliaries that this one does not read; `none` reads none."""
    entry = AUXILIARIES.get(auxiliary)
    return [name for name in sections if entry is None or name in entry.unread]


# A section for each auxiliary; a run's configuration fills that of its own.
AuxiliarySections = make_dataclass("AuxiliarySections", [(name, Any, None) for name in AUXILIARIES], kw_only=True)


def make_auxiliary(config: RunConfig) -> Callable[[Any], Any] | None:
    """Maker of a run's auxiliary from the agent's `slot.Host`; None for `none`."""
    if config.auxiliary == "none":
        return None
    return partial(resolve_name(AUXILIARIES[config.auxiliary].make), config.auxiliary_section)
