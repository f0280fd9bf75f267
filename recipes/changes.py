"""A run folder's configuration as a method and its changes from the base."""

from functools import cache
from typing import Any

from harness.config import ConfigError
from harness.report.scores import Identity
from harness.report.words import NAME
from harness.run_folder import identity, leaves
from harness.sweeps.plan import changes, flatten
from recipes import COMMANDS, command_of
from recipes.tables import TASK_KEYS

MEASURED = ("eval_", "evaluation.")  # keys of what is measured, not of what is learned
CHOICES = {name: name for name in ("auxiliary", "preset", "fidelity")}


def identify(config: dict) -> Identity:
    """Method of a configuration, and its changes from the base: the same task, method, preset and fidelity alone.

    A key that follows a changed one, as `mlr.seq_len` does `replay.window`, is no change. Where this version has no
    such base, the experiment's name stands for the changes.
    """
    from omegaconf import OmegaConf

    command, values = command_of("", config), leaves(config)
    method, name = values[command.method], config["experiment"]
    name = name.removesuffix(f"-{config['preset']}").removesuffix(f"-{config['fidelity']}").removeprefix(f"{method}-")
    groups, keys = command.groups(), {**command.choices, **CHOICES}
    try:
        choices = [f"{group}={values[key]}" for group, key in keys.items() if values[key] in groups[group]]
        base = _compose(command.name, *choices).copy()
    except ConfigError:
        return Identity(method, {NAME: ("", name)})
    for key in (*TASK_KEYS, "env"):
        if key in values and key in base:
            base[key] = values[key]
    usual = base.experiment == config["experiment"]
    own = {key: value for key, value in leaves(identity(config)).items() if not key.startswith(MEASURED)}
    found = changes(flatten(base), own)
    unresolved: Any = OmegaConf.to_container(base, resolve=False)
    raw = leaves(unresolved)
    following = [key for key in found if "${" in str(raw[key])]
    for key in found.keys() - following:
        OmegaConf.update(base, key, found[key][1])
    after = flatten(base)
    led = [key for key in following if after[key] == found[key][1]]
    changed = {key: tuple(map(_hashable, pair)) for key, pair in found.items() if key not in led}
    return Identity(method, changed, "" if usual else name)


@cache
def _compose(name: str, *settings: str) -> Any:
    return COMMANDS[name].compose(settings)


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
