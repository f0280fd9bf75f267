"""Configuration of a training script: composed from `configs/` and the settings, then validated.

Hydra and pydantic's adapters are imported inside the functions, so that `--help` does without them.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass, replace
from functools import cache
from itertools import chain
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import yaml

from harness.config import ConfigError, suite_of, task_of
from harness.files import CONFIGS
from harness.overrides import check_override, explain, parse, require_finite, schema_keys, section_of, validated
from harness.run_folder import leaves


@dataclass(frozen=True)
class Command:
    """Composition of a training script's settings into its configuration.

    name: of the primary file in `configs/` and of the folder with its own groups.
    schema: the pydantic dataclass that the configuration becomes. validate: raises ConfigError.
    hints: what to do instead, by group or key.
    sections: schema of the section that a choice of `auxiliary` fills, as module:class.
    unread: sections that no part of a run with this choice of `auxiliary` reads, beside those of the others.
    resolvers: functions that its files in `configs/` call, by name.
    method: the key whose value names a run's method in reports.
    choices: keys that hold the choice of a group, beside those of `auxiliary`, `preset` and `fidelity`, by group.
    idle: keys and sections that no part of a run reads, by the choice of such a group.
    """

    name: str
    schema: type
    validate: Callable[[Any], None]
    hints: Mapping[str, str] = field(default_factory=dict)
    sections: Mapping[str, str] = field(default_factory=dict)
    unread: Callable[[str], Sequence[str]] = lambda auxiliary: ()
    resolvers: Mapping[str, Callable] = field(default_factory=dict)
    method: str = "auxiliary"
    choices: Mapping[str, str] = field(default_factory=dict)
    idle: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)

    def resolve(self, overrides: Sequence[str]) -> Any:
        """The validated configuration; raises ConfigError for whatever is wrong with the settings."""
        return self.build(self.values(self.compose(overrides)))

    def compose(self, overrides: Sequence[str]) -> Any:
        """The DictConfig of the sections that the run reads; the others are None. Raises ConfigError."""
        from hydra import compose, initialize_config_dir
        from hydra.core.config_store import ConfigStore
        from omegaconf import OmegaConf

        for name, resolver in {**RESOLVERS, **self.resolvers}.items():
            OmegaConf.register_new_resolver(name, resolver, replace=True)
        groups, kinds = self.groups(), self.keys()
        added = set(groups) - chosen_groups(self.name).keys()
        for override in overrides:
            check_override(override, groups, added, kinds, self.hints)
        auxiliary = chosen(self.name, "auxiliary", overrides)
        ConfigStore.instance().store(name=f"{self.name}_schema", node=self.typed(auxiliary))
        unread = self.unread_sections(auxiliary)
        overrides = [override for override in overrides if section_of(parse(override)) not in unread]
        try:
            with initialize_config_dir(config_dir=str(CONFIGS), version_base="1.3"):
                composed = compose(self.name, overrides=[search_path(self.name), *overrides])
            for section in unread:
                composed[section] = None
        except Exception as error:  # Hydra, OmegaConf and their parser have no common class for wrong input
            raise ConfigError(explain(error, kinds, self.hints)) from error
        for group, idle in self.idle.items():
            choice = OmegaConf.select(composed, self.choices[group])
            for override in overrides:
                require_read(override, changed(self.name, override, added), idle[choice], f"{group}={choice}")
        return composed

    def values(self, composed: Any) -> dict:
        """Plain values of a composed configuration, before bounds are checked. Raises ConfigError."""
        from omegaconf import OmegaConf

        try:
            values: Any = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
        except Exception as error:  # interpolations fail in as many ways
            raise ConfigError(explain(error, self.keys(), self.hints)) from error
        require_finite(values)
        return values

    def build(self, values: dict) -> Any:
        """The validated configuration of plain values, as a run folder holds them. Raises ConfigError."""
        section = values.get("auxiliary")
        if section not in (None, "none", *self.sections):
            raise ConfigError(f"auxiliary={section} is not one of {', '.join(('none', *self.sections))}")
        unread = self.unread_sections(section)
        values = {key: value for key, value in values.items() if key not in unread and value is not None}
        config = validated(self.schema, values)
        if section in self.sections:
            schema = resolve_name(self.sections[section])
            config = replace(config, **{section: validated(schema, values.get(section, {}), f"{section}.")})
        self.validate(config)
        return config

    def groups(self) -> dict[str, list[str]]:
        """Names to choose from, by group; of the auxiliaries those that have a section here."""
        return {
            group: [name for name in names if group != "auxiliary" or name in ("none", *self.sections)]
            for group, names in config_groups(self.name).items()
        }

    def unread_sections(self, auxiliary: str | None) -> list[str]:
        """Sections that no part of a run with this auxiliary reads."""
        return [*(name for name in self.sections if name != auxiliary), *self.unread(auxiliary)]

    def typed(self, auxiliary: str | None) -> type:
        """The schema with the section of this auxiliary, by which OmegaConf checks the types of its keys too."""
        section = [(name, resolve_name(path), "???") for name, path in self.sections.items() if name == auxiliary]
        return make_dataclass(self.schema.__name__, section, bases=(self.schema,), kw_only=True)

    def keys(self) -> dict[str, Any]:
        """Type of every key, those of all auxiliaries included, by its full dotted name."""
        keys = schema_keys(self.schema)
        for name, path in self.sections.items():
            schema = resolve_name(path)
            keys |= {name: schema} | schema_keys(schema, f"{name}.")
        return keys


@cache
def chosen_groups(name: str) -> dict[str, str | None]:
    """Groups of which the primary file chooses one; of the others a command line may add one with a +."""
    defaults = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["defaults"]
    return {group: choice for entry in defaults if isinstance(entry, dict) for group, choice in entry.items()}


def chosen(name: str, group: str, overrides: Sequence[str]) -> str | None:
    """The choice of a group: by the command line, else by a file that it chooses, else by the primary file."""
    settings = {setting.key_or_group: setting.value() for setting in map(parse, overrides)}
    if group in settings:
        return settings[group]
    files = [file for key, value in settings.items() for file in files_of(name, key, value)]
    by_files = [re.findall(rf"^ *- override /{group}: (\w+)", file.read_text(), flags=re.M) for file in files]
    return [chosen_groups(name).get(group), *chain(*by_files)][-1]


def files_of(name: str, group: str, choice: Any) -> list[Path]:
    """Files of a group's choice, shared or of the primary file `name`; none for a key that is no group."""
    files = (CONFIGS / group / f"{choice}.yaml", CONFIGS / name / group / f"{choice}.yaml")
    return [file for file in files if file.is_file()]


def settings_of(name: str, group: str, choice: Any) -> dict[str, Any]:
    """Keys with dots and their values in the files of a group's choice."""
    found: dict[str, Any] = {}
    for file in files_of(name, group, choice):
        found |= leaves(yaml.safe_load(file.read_text()))
    return found


def changed(name: str, override: str, added: Collection[str]) -> list[str]:
    """Keys that an override changes: its own, or those in the file of an added group."""
    parsed = parse(override)
    key, value = parsed.key_or_group, parsed.value()
    if key not in added:
        return list(leaves({key: value}))
    return list(settings_of(name, key, value))


def require_read(override: str, keys: Iterable[str], idle: Sequence[str], choice: str) -> None:
    """Raises ConfigError for an override of a key that no part of a run with this choice reads."""
    for key in keys:
        if any(f"{key}.".startswith(f"{name}.") for name in idle):
            raise ConfigError(f"{override} changes {key}, which {choice} does not read: leave one of them out")


def search_path(name: str) -> str:
    # Hydra reads a backslash as itself, except before a quote.
    folder = re.sub(r"(\\*)'", r"\1\1\\'", str(CONFIGS / name))
    return f"hydra.searchpath=['file://{folder}']"


def pick(name: str, values: Mapping[str, Any], other: Any) -> Any:
    """The value of a name, `other` for a name without one: `${pick:${auxiliary},{mlr:6000},0}`."""
    return values.get(name, other)


def prefix(text: str) -> str:
    """The text before the first underscore."""
    return text.partition("_")[0]


RESOLVERS: dict[str, Callable] = {"task_of": task_of, "suite_of": suite_of, "pick": pick, "prefix": prefix}


def config_groups(name: str) -> dict[str, list[str]]:
    """Names to choose from, by group: those of primary file `name` from its folder, and shared ones from `configs/`.

    The folder's group stands for a shared one of its name.
    """
    return files_by_group("*/*.yaml") | files_by_group(f"{name}/*/*.yaml")


def files_by_group(pattern: str) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for file in sorted(CONFIGS.glob(pattern)):
        groups.setdefault(file.parent.name, []).append(file.stem)
    return groups
