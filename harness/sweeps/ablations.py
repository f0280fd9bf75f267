"""Groups of ablations: several runs that differ from one base in one key each."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from harness.command_line import CONFIGS, Command, check_choice, config_groups, repeated
from harness.config import require
from harness.run_folder import OUTSIDE_HASH

GROUPS = CONFIGS / "ablation_groups.yaml"
BASE = "base"  # the arm that every other one is compared with


@dataclass(frozen=True)
class Group:
    arms: list[str]  # names of files in configs/ablation, or key=value
    base: str | None = None  # a file's name; None: the configuration as it is
    together: list[str] = field(default_factory=list)  # keys that may change at once


@dataclass(frozen=True)
class Run:
    name: str  # benchmark/task/arm/seed_n
    task: str
    arm: str
    seed: int
    changed: dict[str, list]  # by key: the base's value and the arm's
    overrides: list[str]  # what the training script is called with
    run_dir: str


def read_groups(path: Path = GROUPS) -> dict[str, Group]:
    return {name: Group(**entry) for name, entry in yaml.safe_load(path.read_text()).items()}


def choose_arms(group: Group, names: Sequence[str]) -> Group:
    """The group with the arms `names` only; raises ConfigError for one that it does not have."""
    for name in names:
        check_choice("arm", name, group.arms, {})
    return Group(list(names), group.base, group.together)


def expand(
    group: Group, command: Command, tasks: dict[str, list[str]], seeds: Sequence[int], common: Sequence[str] = ()
) -> list[Run]:
    """The runs of a group, base first, task by task; every arm has the same seeds.

    tasks: the overrides that choose each task, by its name. common: overrides of all runs. An arm that changes nothing
    on a task is left out there. Raises ConfigError for an arm that cannot run or changes more than one key, for a group
    of which nothing is left, and for runs that share a folder.
    """
    runs = []
    for task, chosen in tasks.items():
        base = {}
        for arm in (BASE, *group.arms):
            settings = [*chosen, *common, *arm_overrides(group.base if arm == BASE else arm, group.base, command)]
            composed = command.resolve(settings)[0]
            values = flatten(composed)
            base = base or values  # which comes first
            changed = {key: [base.get(key), value] for key, value in values.items() if base.get(key) != value}
            if changed or arm == BASE:
                require_one_change(arm, task, changed, group.together)
                runs += [make_run(command.benchmark, task, arm, seed, changed, settings, composed) for seed in seeds]
    require(any(run.arm != BASE for run in runs), "no arm changes anything: take away the settings that decide its key")
    folders = [run.run_dir for run in runs]
    shared = repeated(folders)
    require(shared is None, f"several runs share run_dir={shared}: leave run_dir and experiment to the arms")
    return runs


def arm_overrides(arm: str | None, base: str | None, command: Command) -> list[str]:
    """Overrides that make an arm; one that is key=value is put on top of the base's."""
    if arm is None:
        return []
    if "=" in arm:
        key, _, value = arm.partition("=")
        name = "-".join(filter(None, [base, f"{key.split('.')[-1]}_{value}"]))
        experiment = f"experiment=${{aux}}-{name}-${{fidelity}}-${{preset}}"
        return [*arm_overrides(base, None, command), arm, experiment]
    check_choice("ablation", arm, config_groups(command.benchmark)["ablation"], {})
    return [f"+ablation={arm}"]


def make_run(
    benchmark: str, task: str, arm: str, seed: int, changed: dict[str, list], settings: list[str], composed: Any
) -> Run:
    composed.seed = seed  # run_dir refers to it
    name = f"{benchmark}/{task}/{arm}/seed_{seed}"
    return Run(name, task, arm, seed, changed, [*settings, f"seed={seed}"], composed.run_dir)


def flatten(composed: Any) -> dict[str, Any]:
    """Every value that changes what is learned, by its dotted key."""
    from omegaconf import OmegaConf

    entries = _entries(OmegaConf.to_container(composed, resolve=True))
    return {key: value for key, value in entries.items() if key not in OUTSIDE_HASH}


def _entries(tree: dict, prefix: str = "") -> dict[str, Any]:
    found = {}
    for key, value in tree.items():
        found |= _entries(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def require_one_change(arm: str, task: str, changed: dict[str, list], together: Sequence[str]) -> None:
    """Raises ConfigError if an arm changes several keys that may not change at once."""
    require(
        len(changed) <= 1 or set(changed) <= set(together),
        f"{arm} changes {len(changed)} keys on {task} ({', '.join(changed)}): an arm may change one",
    )
