"""Settings of a command line, key=value: what is wrong with one, in a line that says what to do.

Hydra is imported inside the functions: what only asks for a name does without it.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import is_dataclass
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from harness.config import ConfigError
from harness.messages import advice, shorten
from harness.run_folder import renamed

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


def section_of(parsed) -> str:
    """The first part of an override's key."""
    return re.split("[./]", parsed.key_or_group)[0]


def check_single(overrides: Sequence[str]) -> None:
    """Raises ConfigError for several values."""
    for override in overrides:
        if parse(override).is_sweep_override():
            raise ConfigError(f"{override} gives several values: mlr sweep runs them, or quote the value twice")


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
    if section_of(parsed) == "hydra":
        raise ConfigError(f"{shorten(override)} concerns Hydra itself: leave it out")
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


def check_choice(group: str, choice: Any, names: Sequence[str], hints: Mapping[str, str]) -> None:
    if not isinstance(choice, str) or choice not in names:
        raise ConfigError(f"no {group} named '{choice}'; {advice(str(choice), names)}{further(group, hints)}")


def further(key: str, hints: Mapping[str, str]) -> str:
    return f" ({hints[key]})" if key in hints else ""


def explain(error: Exception, kinds: dict[str, Any], hints: Mapping[str, str]) -> str:
    """One line on an exception of Hydra or OmegaConf: the key at fault, and what it needs."""
    from omegaconf import errors

    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    key = getattr(cause, "full_key", None)
    if isinstance(cause, AssertionError):  # OmegaConf's, which names no key
        return f"a setting is of a section that has no values here{further('sections', hints)}"
    if not key:
        return str(error)
    if isinstance(cause, (errors.ConfigKeyError, errors.ConfigAttributeError)) and key not in kinds:
        return str(error) if is_entry(key, kinds) else unknown_key(key, kinds)
    message = str(cause).splitlines()[0]
    if isinstance(cause, errors.InterpolationToMissingValueError):
        key = message.rsplit(maxsplit=1)[-1]
    if isinstance(cause, (errors.MissingMandatoryValue, errors.InterpolationToMissingValueError)):
        return f"{key} has no value: add {key}=value{further(key, hints)}"
    if isinstance(cause, errors.ValidationError) and kinds.get(key) in KINDS:
        return f"{key} must be {KINDS[kinds[key]]}: {message}"
    return f"{key}: {message}"


def validated(schema: Any, values: Any, where: str = "") -> Any:
    """The pydantic dataclass `schema` of plain values. Raises ConfigError; `where` is their section, with its dot."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(schema).validate_python(values)
    except ValidationError as error:
        raise ConfigError(describe_violation(error, where)) from error


def describe_violation(error: Any, where: str) -> str:
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


def is_entry(key: str, kinds: dict[str, Any]) -> bool:
    """Tells whether `key` names an entry of a list or a mapping, whose names the schema leaves open."""
    parents = [name for name, kind in kinds.items() if get_origin(kind) in (list, dict)]
    return any(key.startswith((f"{parent}.", f"{parent}[")) for parent in parents)


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


def require_finite(value: Any, key: str = "") -> None:
    """Raises ConfigError for nan, inf and a float beyond +-LARGEST anywhere in nested containers."""
    if isinstance(value, float) and not abs(value) <= LARGEST:
        raise ConfigError(f"{key}={value} must be a number within +-{LARGEST:g}")
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, entry in entries:
        require_finite(entry, f"{key}.{name}" if key else str(name))
