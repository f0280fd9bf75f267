"""Runs of a sweep: each with its name, its command and its folder, found valid before any of them starts."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import chain, product
from pathlib import Path
from typing import Any

from harness.command import Command, config_groups
from harness.config import ConfigError, require
from harness.messages import repeated
from harness.overrides import parse
from harness.run_folder import check_run, leaves
from harness.sweeps.grid import ABLATION, Choice, Grid

ENTRIES = Path(__file__).resolve().parents[2] / "commands"
PLACE = ("experiment", "run_dir", "seed")  # keys that say where a run lies, not what it is


@dataclass(frozen=True)
class SweepRun:
    name: str  # suite/task/arm/seed_n
    suite: str
    seed: int
    arguments: list[str]  # the training script and its settings
    run_dir: str
    agent_steps: int
    episodes: int  # episodes of an evaluation
    task: str = ""
    arm: str = ""  # the experiment's name
    changed: dict[str, list] = field(default_factory=dict)  # by key: the base's value and the run's

    @property
    def overrides(self) -> list[str]:
        return self.arguments[1:]


@dataclass(frozen=True)
class Double:
    """A combination with the configuration of another one, which runs for both."""

    name: str  # suite/task
    overrides: list[str]
    arm: str  # arm of the combination that runs


@dataclass(frozen=True)
class Plan:
    runs: list[SweepRun]
    doubles: list[Double]


def plan_runs(command: Command, tasks: Sequence[Sequence[str]], grid: Grid, seeds: Sequence[int]) -> Plan:
    """Plans the runs of a training script, task by task. tasks: the settings that choose each.

    Each combination has a name of its own as experiment, which holds the keys with several values. `changed` compares
    it with the base: the configuration without these keys, or the group's.

    Raises ConfigError for a run that cannot start, and for an arm of a group that changes more than one key.
    """
    plan, arm_runs = Plan([], []), False
    combinations = [(tuple(chain(*choices)), arm) for choices in product(*grid.axes) for arm in grid.arms]
    for chosen in tasks:
        compose = cache(partial(_compose, command, (*chosen, *grid.common)))
        base = _base_values(compose, combinations[0], grid)
        known: dict[str, str] = {}  # experiments, by configuration
        for shared, arm in combinations:
            overrides = [*shared, *arm]
            composed, config = compose(*overrides)
            values = flatten(composed)
            if grid.group is not None:
                anchor = flatten(compose(*shared, *grid.arms[0])[0])
                by_arm = changes(anchor, values)
                require(
                    len(by_arm) <= 1 or set(by_arm) <= set(grid.group.together),
                    f"{' '.join(arm)} changes {len(by_arm)} keys on {config.task} ({', '.join(by_arm)}): an arm may "
                    "change one",
                )
            identity = repr(values)
            if identity in known:
                plan.doubles.append(Double(f"{config.suite}/{config.task}", overrides, known[identity]))
                continue
            changed = changes(base, values, [_key(override) for override in overrides])
            labels = name_experiment(command, composed, overrides)
            common = [setting for setting in grid.common if not labels or _key(setting) != "experiment"]
            settings = [*chosen, *common, *overrides]
            runs = [_make_run(command, composed, config, settings, labels, changed, seed) for seed in seeds]
            known[identity] = runs[0].arm
            plan.runs.extend(runs)
            arm_runs = arm_runs or arm != grid.arms[0]
    require(grid.group is None or arm_runs, "no arm changes anything: take away the settings that decide its key")
    return plan


def in_order(plans: Iterable[Plan]) -> Plan:
    """Joins plans, first seeds of all tasks first. Raises ConfigError for runs that share a folder."""
    plans = list(plans)
    runs = sorted(chain.from_iterable(plan.runs for plan in plans), key=lambda run: run.seed)
    shared = repeated(run.run_dir for run in runs)
    require(shared is None, f"several runs share run_dir={shared}: leave run_dir out, the sweep gives each its own")
    return Plan(runs, list(chain.from_iterable(plan.doubles for plan in plans)))


def flatten(composed: Any) -> dict[str, Any]:
    """Values by their dotted keys, without those that say where a run lies."""
    from omegaconf import OmegaConf

    values: Any = OmegaConf.to_container(composed, resolve=True)
    return {key: value for key, value in leaves(values).items() if key not in PLACE and value is not None}


def changes(base: Mapping[str, Any], values: Mapping[str, Any], keys: Sequence[str] = ()) -> dict[str, list]:
    """Keys with another value than the base's, as [the base's, the other].

    A key that the base lacks counts if it is among `keys`: all others come with a choice such as the auxiliary, which
    is among the changes.
    """
    return {
        key: [base.get(key), value]
        for key, value in values.items()
        if (key in base or key in keys) and base.get(key) != value
    }


def _compose(command: Command, settings: Sequence[str], *overrides: str) -> tuple[Any, Any]:
    composed = command.compose([*settings, *overrides])
    return composed, command.build(command.values(composed))


def _base_values(compose: Callable[..., tuple[Any, Any]], first: tuple[Choice, Choice], grid: Grid) -> dict[str, Any]:
    """Values of the configuration without the axes, or of the first combination where that one cannot run."""
    try:
        return flatten(compose(*grid.arms[0])[0])
    except ConfigError:
        return flatten(compose(*chain(*first))[0])


def name_experiment(command: Command, composed: Any, overrides: Sequence[str]) -> bool:
    """Adds labels of `overrides` to the experiment's name, unless it holds them. Returns whether any was added."""
    from omegaconf import OmegaConf

    given: Any = OmegaConf.to_container(composed, resolve=False)
    name = given["experiment"]  # with its interpolations
    labels = [label for label in (_label(command, composed, override, name) for override in overrides) if label]
    head, end, tail = name.partition("-${fidelity}")
    composed.experiment = f"{'-'.join([head, *labels])}{end}{tail}"
    return bool(labels)


def _label(command: Command, composed: Any, override: str, name: str) -> str | None:
    """Label such as ratio_0.3; None if the name holds the choice already, or the configuration lacks the key."""
    from omegaconf import OmegaConf

    parsed = parse(override)
    key = parsed.key_or_group
    if f"${{{key}}}" in name:
        return None
    if key in config_groups(command.name):
        choice = str(parsed.value())
        if key == ABLATION:
            return None if choice in name else choice
        return None if choice == "none" or f"-{choice}-" in name else f"{key}_{choice}"
    missing = object()
    value = OmegaConf.select(composed, key, default=missing)
    value = parsed.value() if OmegaConf.is_dict(value) else value  # names only the keys of a section that are set
    return None if value is missing else f"{_ending(key, flatten(composed))}_{_text(value)}"


def _ending(key: str, keys: Iterable[str]) -> str:
    """The shortest ending of `key` that no other of `keys` has."""
    parts = key.split(".")
    endings = [".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1)]
    others = [f".{other}" for other in keys if other != key]
    return next((ending for ending in endings if not any(o.endswith(f".{ending}") for o in others)), key)


def _text(value: Any) -> str:
    """Value as a part of a folder's name; 1.0 is 1, as in the names of ablations."""
    text = str(value).removesuffix(".0") if isinstance(value, float) else str(value)
    text = text.lower() if isinstance(value, bool) else text
    return re.sub(r"[^\w.+-]+", "_", text).strip("_")


def _quoted(text: str) -> str:
    """Text as a value of Hydra's grammar."""
    from hydra.core.override_parser.types import Quote, QuotedString

    plain = re.fullmatch(r"[\w.+-]+", text) is not None
    return text if plain else QuotedString(text=text, quote=Quote.single).with_quotes()


def _key(override: str) -> str:
    return parse(override).key_or_group


def _make_run(
    command: Command,
    composed: Any,
    config: Any,
    settings: Sequence[str],
    named: bool,
    changed: dict[str, list],
    seed: int,
) -> SweepRun:
    """Raises ConfigError if the run cannot start. named: whether its settings must hold the experiment's name."""
    composed.seed = seed  # others may refer to it
    config = replace(config, seed=seed, experiment=composed.experiment, run_dir=composed.run_dir)
    command.validate(config)
    check_run(config)
    experiment = [f"experiment={_quoted(config.experiment)}"] if named else []
    return SweepRun(
        f"{config.suite}/{config.task}/{config.experiment}/seed_{seed}",
        config.suite,
        seed,
        [str(ENTRIES / f"train_{command.name}.py"), *settings, *experiment, f"seed={seed}"],
        config.run_dir,
        config.agent_steps,
        config.evaluation.episodes,
        config.task,
        config.experiment,
        changed,
    )
