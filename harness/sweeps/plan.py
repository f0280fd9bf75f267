"""The runs of a sweep: each with its name, its command and its folder, found valid before any of them starts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.command_line import CONFIGS, Command, repeated
from harness.config import require
from harness.run_folder import check_run
from harness.sweeps.ablations import Group, Run, expand, make_run

SCRIPTS = CONFIGS.parent / "scripts"


@dataclass(frozen=True)
class SweepRun:
    name: str  # benchmark/task/arm/seed_n
    benchmark: str
    seed: int
    arguments: list[str]  # the training script and its settings
    run_dir: str
    agent_steps: int
    episodes: int  # of an evaluation


def table_runs(
    command: Command, key: str, tasks: Sequence[str], arms: Sequence[str], seeds: Sequence[int], common: Sequence[str]
) -> list[SweepRun]:
    """The runs of one benchmark's table. key: what chooses a task. arms: choices of `aux`. common: settings of all.

    Raises ConfigError for a run that cannot start.
    """
    runs = []
    for task in tasks:
        for arm in arms:
            settings = [f"{key}={task}", f"aux={arm}", *common]
            composed, config = command.resolve(settings)
            for seed in seeds:
                run = make_run(command.benchmark, task, arm, seed, {}, settings, composed)
                runs.append(_checked(command, run, config))
    return runs


def group_runs(
    group: Group, command: Command, tasks: dict[str, list[str]], seeds: Sequence[int], common: Sequence[str]
) -> list[SweepRun]:
    """The runs of an ablation group, as `harness.sweeps.ablations.expand` lists them. Raises ConfigError."""
    composed: dict[tuple, Any] = {}
    runs = []
    for run in expand(group, command, tasks, seeds, common):
        settings = tuple(setting for setting in run.overrides if not setting.startswith("seed="))
        if settings not in composed:
            composed[settings] = command.resolve(settings)[1]
        runs.append(_checked(command, run, composed[settings]))
    return runs


def in_order(runs: Iterable[SweepRun]) -> list[SweepRun]:
    """All tasks with the first seed come first. Raises ConfigError for runs that share a folder."""
    found = sorted(runs, key=lambda run: run.seed)
    shared = repeated(run.run_dir for run in found)
    require(shared is None, f"several runs share run_dir={shared}: leave out run_dir and experiment")
    return found


def _checked(command: Command, run: Run, config: Any) -> SweepRun:
    config = replace(config, seed=run.seed, run_dir=run.run_dir)
    command.validate(config)
    check_run(config)
    return SweepRun(
        run.name,
        command.benchmark,
        run.seed,
        [str(SCRIPTS / f"train_{command.benchmark}.py"), *run.overrides],
        run.run_dir,
        config.agent_steps,
        config.evaluation.episodes,
    )
