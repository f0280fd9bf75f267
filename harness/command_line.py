"""Command line of a training script: compose the configuration, refuse it in one line, or run it.

Hydra is imported inside the functions, so that `--help` does without it. torch is left to `run`, so that a refused
configuration answers at once.
"""

import argparse
import difflib
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, make_dataclass, replace
from importlib import import_module
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from harness.config import ConfigError, as_dict, suite_of, task_of
from harness.exit_codes import REFUSED
from harness.files import CONFIGS
from harness.output import lasting_output
from harness.run_folder import leaves, renamed

LARGEST = 1e9  # a float beyond it is a slip of the keyboard
LONGEST = 4096  # characters of a setting, as in a path; Hydra's parser takes seconds over absurd ones
KINDS = {int: "an integer", float: "a number", bool: "true or false", str: "a text"}
# Texts for types by the beginning of pydantic's names for violations, and for its other violations.
TYPES = {kind.__name__: name for kind, name in KINDS.items()} | {"string": "a text", "list": "a list"}
TYPES |= {"dict": "a mapping", "dataclass": "a section of keys"}
BOUNDS = {
    "greater_than_equal": "be at least {ge:g}",
    "greater_than": "be above {gt:g}",
    "less_than_equal": "be at most {le:g}",
    "less_than": "be below {lt:g}",
    "too_short": "have {min_length} or more entries",
    "string_too_short": "have {min_length} or more characters",
    "string_too_long": "have at most {max_length} characters",
}
ADVICE = "write key=value, and quote a value with special characters twice, as in run_dir=\"'a b'\""


@lasting_output()
def launch(
    command: "Command", run: Callable[[Any], int], *, about: str = "", argv: Sequence[str] | None = None
) -> int:
    """Exit code of the command: what `run` returns for the composed configuration, 2 if it cannot run.

    about: what `--help` prints before the choices. argv: the arguments, by default the command line's.
    """
    try:
        arguments = read_arguments(sys.argv[1:] if argv is None else argv)
        if arguments.help:
            print(help_text(command, about))
            return 0
        check_single(arguments.overrides)
        config = command.resolve(arguments.overrides)
        if arguments.cfg:
            print(as_yaml(config), end="")
            return 0
        return run(config)
    except ConfigError as error:
        return refuse(error)
    except KeyboardInterrupt:  # at once: torch aborts an interpreter that ends while a checkpoint's writer runs
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
        raise


def refuse(error: Exception) -> int:
    complain(str(error))
    return REFUSED


def complain(message: str) -> None:
    print(f"error: {in_one_line(message)}", file=sys.stderr)


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
        from pydantic import TypeAdapter, ValidationError

        section, where = values.get("auxiliary"), ""
        if section not in (None, "none", *self.sections):
            raise ConfigError(f"auxiliary={section} is not one of {', '.join(('none', *self.sections))}")
        unread = self.unread_sections(section)
        values = {key: value for key, value in values.items() if key not in unread and value is not None}
        try:
            config = TypeAdapter(self.schema).validate_python(values)
            if section in self.sections:
                where = f"{section}."
                filled = TypeAdapter(load(self.sections[section])).validate_python(values.get(section, {}))
                config = replace(config, **{section: filled})
        except ValidationError as error:
            raise ConfigError(describe_violation(error, where)) from error
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
        section = [(name, load(path), "???") for name, path in self.sections.items() if name == auxiliary]
        return make_dataclass(self.schema.__name__, section, bases=(self.schema,), kw_only=True)

    def keys(self) -> dict[str, Any]:
        """Type of every key, those of all auxiliaries included, by its full dotted name."""
        keys = schema_keys(self.schema)
        for name, path in self.sections.items():
            schema = load(path)
            keys |= {name: schema} | schema_keys(schema, f"{name}.")
        return keys


class Options(argparse.ArgumentParser):
    """Options of a command, which `about` describes; a wrong one is a ConfigError with `advice`."""

    def __init__(self, about: str, prog: str | None = None, advice: str = "--help shows the options", **settings):
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(prog, description=about, formatter_class=formatter, allow_abbrev=False, **settings)
        self._advice = advice

    def error(self, message: str):
        raise ConfigError(f"{message}; {self._advice}")


def at_least(minimum: int) -> Callable[[str], int]:
    """The kind of an option that is an integer from `minimum` on."""

    def integer(text: str) -> int:
        if int(text) < minimum:
            raise argparse.ArgumentTypeError(f"{text} must be at least {minimum}")
        return int(text)

    return integer


def read_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Options of every training script."""
    parser = Options("", advice="settings are written key=value, --help shows them", add_help=False)
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--cfg", choices=["job"])
    parser.add_argument("overrides", nargs="*")
    return parser.parse_intermixed_args(list(argv))


def help_text(command: Command, about: str) -> str:
    chosen = chosen_groups(command.name)
    choices = [
        f"  {group}={'|'.join(names)}"
        if group in chosen
        else f"  +{group}=NAME  one of {len(names)} in configs/{group}/"
        for group, names in command.groups().items()
    ]
    return "\n".join([(about or "").strip(), "", "Choices:", *choices])


def chosen_groups(name: str) -> dict[str, str | None]:
    """Groups of which the primary file chooses one; of the others a command line may add one with a +."""
    import yaml

    defaults = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["defaults"]
    return {group: choice for entry in defaults if isinstance(entry, dict) for group, choice in entry.items()}


def chosen(name: str, group: str, overrides: Sequence[str]) -> str | None:
    """The choice of a group: by the command line, else by a file that it chooses, else by the primary file."""
    settings = {setting.key_or_group: setting.value() for setting in map(parse, overrides)}
    if group in settings:
        return settings[group]
    by_files = [choice for key, value in settings.items() for choice in overridden(name, f"{key}/{value}", group)]
    return [chosen_groups(name).get(group), *by_files][-1]


def overridden(name: str, file: str, group: str) -> Iterator[str]:
    """Choices of a group by the `override` entries of another group's file."""
    for path in (CONFIGS / f"{file}.yaml", CONFIGS / name / f"{file}.yaml"):
        if path.is_file():
            yield from re.findall(rf"^ *- override /{group}: (\w+)", path.read_text(), flags=re.M)


def changed(name: str, override: str, added: Collection[str]) -> list[str]:
    """Keys that an override changes: its own, or those in the file of an added group."""
    import yaml

    key, value = parse(override).key_or_group, parse(override).value()
    if key not in added:
        return list(leaves({key: value}))
    files = (CONFIGS / key / f"{value}.yaml", CONFIGS / name / key / f"{value}.yaml")
    return [leaf for file in files if file.is_file() for leaf in leaves(yaml.safe_load(file.read_text()))]


def require_read(override: str, keys: Iterable[str], idle: Sequence[str], choice: str) -> None:
    """Raises ConfigError for an override of a key that no part of a run with this choice reads."""
    for key in keys:
        if any(f"{key}.".startswith(f"{name}.") for name in idle):
            raise ConfigError(f"{override} changes {key}, which {choice} does not read: leave one of them out")


def section_of(parsed) -> str:
    """The first part of an override's key."""
    return re.split("[./]", parsed.key_or_group)[0]


def search_path(name: str) -> str:
    # Hydra reads a backslash as itself, except before a quote.
    folder = re.sub(r"(\\*)'", r"\1\1\\'", str(CONFIGS / name))
    return f"hydra.searchpath=['file://{folder}']"


def as_yaml(config: Any) -> str:
    import yaml

    return yaml.safe_dump(as_dict(config), sort_keys=False)


def load(path: str) -> Any:
    """The object at `path`, module:name."""
    module, name = path.split(":")
    return getattr(import_module(module), name)


def pick(name: str, values: Mapping[str, Any], other: Any) -> Any:
    """The value of a name, `other` for a name without one: `${pick:${auxiliary},{mlr:6000},0}`."""
    return values.get(name, other)


def prefix(text: str) -> str:
    """The text before the first underscore."""
    return text.partition("_")[0]


RESOLVERS: dict[str, Callable] = {"task_of": task_of, "suite_of": suite_of, "pick": pick, "prefix": prefix}


def parse(override: str):
    """Hydra's reading of one `key=value`; raises ConfigError."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    if len(override) > LONGEST:
        raise ConfigError(f"'{shorten(override)}' has {len(override)} characters: a setting has at most {LONGEST}")
    try:
        parsed = OverridesParser.create().parse_override(override)
    except Exception as error:  # also ValueError and RecursionError, for absurd numbers and nesting
        raise ConfigError(f"cannot read '{shorten(override)}': {ADVICE}") from error
    if not parsed.key_or_group:
        raise ConfigError(f"cannot read '{shorten(override)}': {ADVICE}")
    return parsed


def check_single(overrides: Sequence[str]) -> None:
    """Raises ConfigError for several values, and for settings of Hydra itself."""
    for override in overrides:
        parsed = parse(override)
        if parsed.is_sweep_override():
            raise ConfigError(f"{override} gives several values: mlr sweep runs them, or quote the value twice")
        if is_hydra(parsed):
            raise ConfigError(f"{override} concerns Hydra itself: leave it out")


def is_hydra(parsed) -> bool:
    return section_of(parsed) == "hydra"


def check_override(
    override: str, groups: dict[str, list[str]], added: set[str], kinds: dict[str, Any], hints: Mapping[str, str]
) -> None:
    """Raises ConfigError, with the nearest name, for keys and choices that do not exist.

    groups: names to choose from, by group. added: groups of which none is chosen before.
    kinds: type of every key. hints: what to do instead, by group.

    Hydra itself accepts `+key` for an unknown key, and names no neighbour for a misspelt one.
    """
    parsed = parse(override)
    key = parsed.key_or_group
    if is_hydra(parsed):
        return
    if parsed.is_delete():
        raise ConfigError(f"{override}: a key cannot be removed, only changed: write key=value")
    if parsed.package is not None:
        raise ConfigError(f"{override}: write {key}=value, without @{parsed.package}")
    if key in groups:
        check_choice(key, parsed.value(), groups[key], hints)
        if key in added and not parsed.is_add():
            raise ConfigError(f"{key} is added to the others: write +{override}")
        if parsed.is_add() and key in kinds:
            raise ConfigError(f"{key} is chosen already: write {key}={parsed.value()}")
    elif key not in kinds and not is_entry(key, kinds):
        raise ConfigError(unknown_key(key, [*kinds, *groups]))
    elif parsed.is_add() and key in kinds:
        raise ConfigError(f"{key} is there already: write {key}=value without a +")
    elif is_dataclass(kinds.get(key)) and not isinstance(parsed.value(), dict):
        first = next(name for name in kinds if name.startswith(f"{key}."))
        raise ConfigError(f"{key} is a section: set its keys, such as {first}=value")


def further(key: str, hints: Mapping[str, str]) -> str:
    return f" ({hints[key]})" if key in hints else ""


def check_choice(group: str, choice: Any, names: Sequence[str], hints: Mapping[str, str]) -> None:
    if not isinstance(choice, str) or choice not in names:
        raise ConfigError(f"no {group} named '{choice}'; {advice(str(choice), names)}{further(group, hints)}")


def explain(error: Exception, kinds: dict[str, Any], hints: Mapping[str, str]) -> str:
    """One line on an exception of Hydra or OmegaConf: the key at fault, and what it needs."""
    from omegaconf.errors import (
        ConfigAttributeError,
        ConfigKeyError,
        InterpolationToMissingValueError,
        MissingMandatoryValue,
        ValidationError,
    )

    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    key = getattr(cause, "full_key", None)
    if isinstance(cause, AssertionError):  # OmegaConf's, which names no key
        return f"a setting is of a section that has no values here{further('sections', hints)}"
    if not key:
        return str(error)
    if isinstance(cause, (ConfigKeyError, ConfigAttributeError)) and key not in kinds:
        return str(error) if is_entry(key, kinds) else unknown_key(key, kinds)
    message = str(cause).splitlines()[0]
    if isinstance(cause, InterpolationToMissingValueError):
        key = message.rsplit(maxsplit=1)[-1]
    if isinstance(cause, (MissingMandatoryValue, InterpolationToMissingValueError)):
        return f"{key} has no value: add {key}=value{further(key, hints)}"
    if isinstance(cause, ValidationError) and kinds.get(key) in KINDS:
        return f"{key} must be {KINDS[kinds[key]]}: {message}"
    return f"{key}: {message}"


def describe_violation(error: Any, where: str = "") -> str:
    """One line on pydantic's first complaint; `where` is the section that was checked, with its dot."""
    first = error.errors(include_url=False)[0]
    key, kind, bounds = where + ".".join(map(str, first["loc"])), first["type"], first.get("ctx", {})
    setting = f"{key}={first['input']}"
    if kind == "missing":
        return f"{key} has no value: add {key}=value"
    if kind.startswith("unexpected"):
        return f"no key {key} in this version"
    if kind == "value_error":
        return f"{setting} {bounds['error']}"
    if kind == "greater_than" and bounds["gt"] == 0 and isinstance(bounds["gt"], int):
        return f"{setting} must be at least 1"
    if kind in BOUNDS:
        return f"{setting} must {BOUNDS[kind].format(**bounds)}"
    if kind.split("_")[0] in TYPES:
        return f"{setting} must be {TYPES[kind.split('_')[0]]}"
    return f"{setting}: {first['msg']}"


def unknown_key(key: str, names: Collection[str]) -> str:
    today = renamed()["keys"].get(key)
    if isinstance(today, str):
        return f"no key {key}; it is called {today} now"
    return f"no key {key}; {advice(key, names, '--cfg job shows them all')}"


def advice(name: str, names: Iterable[str], otherwise: str = "") -> str:
    """The nearest of `names`; where none is near `otherwise`, or all of them."""
    close = nearest(name, names)
    return f"did you mean {close}?" if close else otherwise or f"choose one of {', '.join(names)}"


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The most similar of `names`, also by their last parts: `mask_ratio` is near mlr.mask.ratio. Case says nothing."""
    endings: dict[str, str] = {}
    for full in names:
        parts = full.split(".")
        for start in range(len(parts)):
            endings.setdefault(".".join(parts[start:]).lower(), full)
    close = difflib.get_close_matches(name.lower(), endings, n=1)
    return endings[close[0]] if close else None


def schema_keys(schema: Any, prefix: str = "") -> dict[str, Any]:
    """Type of every key, sections included, by its full dotted name."""
    keys: dict[str, Any] = {}
    for name, kind in get_type_hints(schema).items():
        if NoneType in get_args(kind):
            kind = next(each for each in get_args(kind) if each is not NoneType)
        keys[prefix + name] = kind
        if is_dataclass(kind):
            keys |= schema_keys(kind, f"{prefix}{name}.")
    return keys


def is_entry(key: str, kinds: dict[str, Any]) -> bool:
    """Tells whether `key` names an entry of a list or a mapping, whose names the schema leaves open."""
    parents = [name for name, kind in kinds.items() if get_origin(kind) in (list, dict)]
    return any(key.startswith((f"{parent}.", f"{parent}[")) for parent in parents)


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


def require_finite(value: Any, key: str = "") -> None:
    """Raises ConfigError for nan and inf anywhere in nested containers: both are floats, and no setting means them."""
    if isinstance(value, float) and not abs(value) <= LARGEST:
        raise ConfigError(f"{key}={value} must be a number within +-{LARGEST:g}")
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, entry in entries:
        require_finite(entry, f"{key}.{name}" if key else str(name))


def repeated(values: Iterable[str]) -> str | None:
    """The first of the values that comes more than once."""
    return next((value for value, count in Counter(values).items() if count > 1), None)


def shorten(text: str, length: int = 60) -> str:
    return text if len(text) <= length else f"{text[:length]}..."


def in_one_line(text: str) -> str:
    return " ".join(text.split())
