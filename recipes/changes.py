"""A run folder's configuration as a method and its changes from the base."""

from functools import cache
from itertools import product
from typing import Any

from harness.command import Command, chosen_groups, settings_of
from harness.config import ConfigError, as_dict
from harness.report.published import label_of
from harness.report.scores import Identity
from harness.report.words import NAME, choice_groups, choices, in_words
from harness.run_folder import identity, leaves
from harness.sweeps.grid import ABLATION, read_groups
from harness.sweeps.plan import changes, flatten
from recipes import COMMANDS, command_of
from recipes.tables import TASK_KEYS

MEASURED = ("eval_", "evaluation.")  # keys of what is measured, not of what is learned
CHOICES = {name: name for name in ("auxiliary", "preset", "fidelity")}


def identify(config: dict) -> Identity:
    """Method of a configuration, and its changes from the base: the same task, method, preset and fidelity alone.

    Choices of groups such as `ladder` are recognised by what they set, and are changes themselves. A key that follows a
    changed one, as `mlr.seq_len` does `replay.window`, is no change; nor is one that an ablation sets with it. Where
    this version has no such base, the experiment's name stands for the changes.
    """
    from omegaconf import OmegaConf

    command, values = command_of("", config), leaves(config)
    method, name = values[command.method], config["experiment"]
    name = name.removesuffix(f"-{config['preset']}").removesuffix(f"-{config['fidelity']}").removeprefix(f"{method}-")
    groups, keys = command.groups(), {**command.choices, **CHOICES}
    own = {key: value for key, value in leaves(identity(config)).items() if not key.startswith(MEASURED)}
    task = {key: values[key] for key in (*TASK_KEYS, "env") if key in values}
    try:
        settings = [f"{group}={values[key]}" for group, key in keys.items() if values[key] in groups[group]]
        base, chosen = _nearest(command, settings, task, own)
    except ConfigError:
        return Identity(method, {NAME: ("", name)})
    usual = base.experiment == config["experiment"]
    found = changes(flatten(base), own)
    unresolved: Any = OmegaConf.to_container(base, resolve=False)
    raw = leaves(unresolved)
    following = [key for key in found if "${" in str(raw[key])]
    for key in found.keys() - following:
        OmegaConf.update(base, key, found[key][1])
    after = flatten(base)
    led = [key for key in following if after[key] == found[key][1]]
    led += _set_together(command.name, {key: own for key, (_, own) in found.items()})
    changed = {key: tuple(map(_hashable, pair)) for key, pair in found.items() if key not in led}
    return Identity(method, chosen | changed, "" if usual else name)


def method_label(config: Any) -> str:
    """Name of a configuration's method, and the choices that stand beside it: "MLR, lean"."""
    found = identify(as_dict(config))
    beside = choices((key, own) for key, (_, own) in found.changes.items())
    return ", ".join([label_of(found.method), *in_words(beside)])


def _nearest(command: Command, settings: list[str], task: dict, own: dict) -> tuple[Any, dict[str, tuple[str, str]]]:
    """The base and the choices that leave fewest other changes: for each group, the usual choice and the run's."""
    groups, usual = command.groups(), chosen_groups(command.name)
    base = _compose(command.name, task, *settings)
    plain = flatten(base)
    options = []
    for group in choice_groups():
        names = [name for name in groups.get(group, ()) if _has_left_traces(command.name, group, name, plain, own)]
        options.append([None, *((group, name) for name in names if name != usual.get(group))])
    found = []
    for combination in product(*options):
        chosen = dict(filter(None, combination))
        added = [f"{'' if group in usual else '+'}{group}={name}" for group, name in chosen.items()]
        composed = _compose(command.name, task, *settings, *added) if added else base
        reached = flatten(composed)
        unlike = sum(reached.get(key) != own.get(key) for key in {*reached, *own})
        found.append((unlike + len(chosen), len(chosen), composed, chosen))
    *_, composed, chosen = min(found, key=lambda each: each[:2])
    return composed, {group: (usual.get(group, ""), name) for group, name in chosen.items()}


def _has_left_traces(command: str, group: str, choice: str, plain: dict, own: dict) -> bool:
    """Tells whether a value of the choice's file is the run's and not the base's, or the file only includes others."""
    files = settings_of(command, group, choice)
    values = {key: value for key, value in files.items() if key not in ("defaults", "experiment")}
    return not values or any(value == own.get(key) != plain.get(key) for key, value in values.items())


def _set_together(command: str, own: dict) -> list[str]:
    """Keys that have the value which an ablation sets beside the first key that its group names in `together`."""
    found = []
    for group in read_groups().values():
        lead, *followers = group.together or [""]
        for arm in group.arms if lead in own else ():
            values = settings_of(command, ABLATION, arm)
            if values.get(lead) == own[lead]:
                found += [key for key in followers if key in own and values.get(key) == own[key]]
    return found


def _compose(name: str, task: dict, *settings: str) -> Any:
    composed = _composed(name, *settings).copy()
    for key in task.keys() & set(composed):
        composed[key] = task[key]
    return composed


@cache
def _composed(name: str, *settings: str) -> Any:
    return COMMANDS[name].compose(settings)


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
