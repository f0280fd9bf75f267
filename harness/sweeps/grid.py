"""Combinations of settings: keys with several values, ablations, and groups of them. Nothing is composed here."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import islice

import yaml

from harness.config import ConfigError, require
from harness.files import CONFIGS
from harness.messages import shorten
from harness.overrides import check_choice, parse

GROUPS = CONFIGS / "ablation_groups.yaml"
ABLATION = "ablation"  # folder of configs/ with a file for each
BASE = "base"  # in a list of ablations: none of them
MOST_VALUES = 1000  # values of a key

Choice = tuple[str, ...]  # overrides that belong together


@dataclass(frozen=True)
class Group:
    """Ablations of one base, of which each changes one key."""

    arms: list[str]  # names of files in configs/ablation, or key=value
    base: str | None = None  # an ablation; None: the configuration as it is
    together: list[str] = field(default_factory=list)  # keys that may change at once


@dataclass(frozen=True)
class Grid:
    """Axes whose choices are combined with each other and with the arms, on top of the settings of all runs."""

    common: list[str]
    axes: list[list[Choice]]
    group: Group | None = None

    @property
    def arms(self) -> list[Choice]:
        """Choices of the group's base and its arms; without a group one choice that sets nothing."""
        return [()] if self.group is None else _group_choices(self.group)


def make_grid(settings: Sequence[str], ablations: Sequence[str] = (), group: Group | None = None) -> Grid:
    """Splits the settings with several values. Raises ConfigError for one that cannot be read.

    ablations: names of files in configs/ablation, or BASE.
    """
    common, axes = [], [[_ablation(name) for name in ablations]] if ablations else []
    for setting in settings:
        if parse(setting).is_sweep_override():
            axes.append([(override,) for override in _split(setting)])
        else:
            common.append(setting)
    return Grid(common, axes, group)


@cache
def read_groups() -> dict[str, Group]:
    return {name: Group(**entry) for name, entry in yaml.safe_load(GROUPS.read_text()).items()}


def choose_arms(group: Group, names: Sequence[str]) -> Group:
    """The group with the arms `names` only. Raises ConfigError for one that it does not have."""
    for name in names:
        check_choice("arm", name, group.arms, {})
    return Group(list(names), group.base, group.together)


def _split(setting: str) -> list[str]:
    """One override for each value, by Hydra's grammar: commas within brackets and quotes separate nothing."""
    parsed = parse(setting)
    advice = f"{shorten(setting)}: write the values with commas between"
    require(parsed.is_discrete_sweep(), advice)
    try:
        values = list(islice(parsed.sweep_string_iterator(), MOST_VALUES + 1))
    except Exception as error:  # functions such as range() are evaluated here; Hydra has no common class for theirs
        raise ConfigError(advice) from error
    require(0 < len(values) <= MOST_VALUES, f"{shorten(setting)} must have 1 to {MOST_VALUES:,} values")
    return [f"{parsed.get_key_element()}={value}" for value in values]


def _ablation(name: str | None) -> Choice:
    return () if name in (None, BASE) else (f"+{ABLATION}={name}",)


def _group_choices(group: Group) -> list[Choice]:
    base = _ablation(group.base)
    return [base, *((*base, arm) if "=" in arm else _ablation(arm) for arm in group.arms)]
