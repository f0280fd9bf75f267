"""Run many trainings, here or on SLURM: mlr sweep table=NAME seeds=N [key=value ...]

Runs what is not finished; the same command again continues. Nothing is run twice: a run is continued from its newest
checkpoint however it ended. One that fails for its own reason is named with its last line, and the others go on.

  mlr sweep ...               run
  mlr sweep status ...        show where each run of the same settings is
  mlr sweep --dry-run ...     print the commands and their predicted cost; with --json FILE also list the runs there,
                              - prints that

Examples:
  mlr sweep table=atari100k seeds=3 auxiliary=mlr,none
  mlr sweep suite=atari tasks=pong,boxing seeds=3 mlr.mask.ratio=0.3,0.5,0.7
  mlr sweep suite=dmcontrol tasks=finger_spin seeds=1,2 group=tau preset=cpu --dry-run --json tau.json

What to run:
  table=atari100k         a suite's tasks and length; or dmcontrol100k, dmcontrol500k, or several with commas between
  suite=atari             or dmcontrol, mwm: instead of a table, with tasks=pong,boxing; of a table, tasks= are some of
                          its own
  env=PACKAGE.MODULE:NAME instead of tasks=, with suite=: environments of your own
  seeds=3                 that many, from 1 on; seeds=4,5,6 are just these
  key=value               any setting of a training script is one of all runs: preset=cpu, fidelity=paper, ...
                          A preset other than full keeps its own length.
                          mlr train atari --cfg job shows them all.
  key=value,value         each value, in all combinations with those of other keys:
                          auxiliary=mlr,none mlr.mask.ratio=0.3,0.7
                          The experiment is named for them: mlr-ratio_0.3-released-full.
  atari.key=value         a setting of one suite's runs only, or dmcontrol.key=value, mwm.key=value
  ablation=base,tau_1     files of configs/ablation; base is none of them
  group=mask_ratio        a group of configs/ablation_groups.yaml: its base, and arms that change one key of it each
  arms=ratio_0.1          some of the group's arms
How (configs/sweep.yaml has the rest):
  launcher=local          or slurm, ray
  parallel=2              runs side by side; without it runs_per_gpu on every GPU, and one without a GPU
  runs_per_gpu=4  gpus=0,1
  slurm.partition=NAME  slurm.minutes=1440  slurm.gpus=1  slurm.cpus=4  slurm.runs_per_job=1  slurm.options.account=NAME

Exit codes: 0 all runs are done (or were handed to SLURM), 1 some failed, 2 wrong input, 75 stopped: the same command
goes on. docs/scale.md says what a table costs and how to size shares.
"""

import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from harness.command_line import Options
from harness.config import ConfigError, require
from harness.exit_codes import DONE, RESUME_ME
from harness.messages import in_one_line, refuse, repeated, shorten
from harness.output import lasting_output
from harness.overrides import check_choice, schema_keys
from harness.stop import StopRequest
from harness.sweeps.attempt import Outcome, require_tools
from harness.sweeps.config import SweepConfig, is_own, read_sweep_config
from harness.sweeps.grid import Group, choose_arms, make_grid, read_groups
from harness.sweeps.local import count_places, make_shares, run_side_by_side, visible_gpus
from harness.sweeps.mps import CONTROL, PIPE, sharing
from harness.sweeps.plan import Plan, SweepRun, in_order, plan_runs
from harness.sweeps.ray import connect, run_on_ray
from harness.sweeps.slurm import queue, submit
from harness.sweeps.status import read_status, summary
from harness.sweeps.status import table as status_table
from recipes import COMMANDS
from recipes.tables import TABLES, TASK_KEYS, TASK_SETTINGS, Table

SOME_FAILED = 1
ETA_SECONDS = 20  # between two looks at all run folders
WHAT = ("table", "suite", "tasks", "env", "seeds", "group", "arms", "ablation")
NOT_OF_ALL = {"seed": "seeds"} | dict.fromkeys(TASK_KEYS, "tasks")
MOST_SEEDS, SEED_DIGITS = 10_000, 9


@lasting_output()
def main(arguments: Sequence[str] | None = None) -> int:
    parser = Options(__doc__)
    parser.add_argument("settings", nargs="*", metavar="key=value", help="with `status` before them: only look")
    parser.add_argument("--dry-run", action="store_true", help="print the commands")
    parser.add_argument("--json", metavar="FILE", help="with --dry-run: list the runs in FILE; - prints the list alone")
    console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    try:
        options = parser.parse_intermixed_args(arguments)
        look = options.settings[:1] == ["status"]
        require(options.dry_run or options.json is None, "--json lists the runs of --dry-run: add it")
        what, own, common = read_settings(options.settings[1:] if look else options.settings)
        config = read_sweep_config(own)
        plan = make_plan(what, common)
        if options.dry_run:
            show(plan, options.json)
            return DONE
        if look:
            jobs = known_jobs()
            console.print(status_table([read_status(run, jobs) for run in plan.runs]))
            return DONE
        require_tools()
        if config.launcher == "slurm":
            return hand_to_slurm(plan.runs, config, console)
        return run_here(plan.runs, config, console)
    except ConfigError as error:
        return refuse(ConfigError(str(error).replace("--cfg job shows them all", "--help says which there are")))


def show(plan: Plan, file: str | None) -> None:
    """Prints the commands, and writes the list of runs. Raises ConfigError if it cannot be written."""
    keys = ("name", "suite", "task", "arm", "seed", "overrides", "run_dir", "changed")
    runs = [{key: getattr(run, key) for key in keys} for run in plan.runs]
    listed = json.dumps({"runs": runs, "same": list(map(vars, plan.doubles))}, indent=2)
    if file == "-":
        print(listed)
        return
    if file is not None:
        try:
            Path(file).write_text(f"{listed}\n")
        except OSError as error:
            raise ConfigError(f"--json {file} cannot be written: {error.strerror}") from error
    for run in plan.runs:
        print(f"{run.name}: python {shlex.join(run.arguments)}")
    for double in plan.doubles:
        print(f"{double.name}: {shlex.join(double.overrides) or 'no setting'} is {double.arm} again, which runs once")
    print(f"{len(plan.runs)} runs")
    for line in predicted_cost(plan.runs):
        print(line)


def predicted_cost(runs: list[SweepRun]) -> list[str]:
    from studies.sweep_cost import predicted_cost  # imports torch

    return predicted_cost(runs)


def read_settings(settings: Sequence[str]) -> tuple[dict[str, str], list[str], list[str]]:
    """Sorts the settings: what to run, by name; those of the sweep itself; those of all runs."""
    what: dict[str, str] = {}
    own, common = [], []
    of_runs = {key for command in COMMANDS.values() for key in command.keys()}
    for setting in settings:
        key, equals, value = setting.partition("=")
        require(bool(equals), f"cannot read '{setting}': settings are written key=value, --help shows them")
        name = key_of(setting)
        require(name not in NOT_OF_ALL, f"{key} is decided by {NOT_OF_ALL.get(name)}=...")
        key = key.removeprefix("+") if name == "ablation" else key
        require(key in WHAT or name not in WHAT, f"{key} is written {name}={shorten(value)}, for all runs")
        close = [] if key in of_runs else get_close_matches(key, [*WHAT, *schema_keys(SweepConfig)], n=1, cutoff=0.8)
        require(not close or key in close, f"no key {key}; did you mean {''.join(close)}?")
        if key in WHAT:
            require(key not in what, f"{key} is given twice")
            what[key] = value
        else:
            (own if is_own(key) else common).append(setting)
    for suite in COMMANDS:
        twice = repeated(key_of(setting) for setting in settings_of(suite, settings))
        require(twice is None, f"{twice} is given twice")
    return what, own, common


def key_of(setting: str) -> str:
    """Key of a setting, without a suite's name and Hydra's signs."""
    return setting.partition("=")[0].removeprefix(f"{suite_named(setting)}.").lstrip("+~")


def suite_named(setting: str) -> str | None:
    """The suite whose runs alone a setting is for; `mwm.mask_ratio` is a key itself."""
    key = setting.partition("=")[0]
    named = next((name for name in COMMANDS if key.startswith(f"{name}.")), None)
    return None if named is None or key in COMMANDS[named].keys() else named


def make_plan(what: dict[str, str], common: Sequence[str]) -> Plan:
    """Plans all runs and finds each valid. Raises ConfigError."""
    require(("table" in what) != ("suite" in what), f"give table={'|'.join(TABLES)}, or suite= and tasks=")
    require("seeds" in what, "seeds must be given: seeds=3 are three, seeds=4,5 are these")
    require("arms" not in what or "group" in what, "arms= are those of a group: add group=NAME")
    require(not {"ablation", "group"} <= what.keys(), "ablation= and group= exclude each other: a group has its arms")
    seeds, group = choose_seeds(what), choose_group(what)
    ablations = names(what, "ablation") if "ablation" in what else []
    parts = choose_parts(what)
    for setting in common:
        suite = suite_named(setting)
        there = [part.command for part in parts]
        require(suite is None or suite in there, f"{shorten(setting)} is of no run here: leave it out")
    plans = []
    for part in parts:
        settings = settings_of(part.command, common)
        grid = make_grid([*length_of(part.length, settings), *settings], ablations, group)
        if "env" in what:
            tasks = [[f"env={name}"] for name in names(what, "env")]
        else:
            tasks = [TASK_SETTINGS[part.command](task) for task in part.tasks]
        plans.append(plan_runs(COMMANDS[part.command], tasks, grid, seeds))
    return in_order(plans)


def choose_parts(what: dict[str, str]) -> list[Table]:
    """The tables, with the tasks asked for, or the tasks of one suite at the configuration's own length."""
    if "suite" in what:
        suite = what["suite"]
        check_choice("suite", suite, list(COMMANDS), {})
        require(("tasks" in what) != ("env" in what), f"give tasks=A,B or env=A,B with suite={suite}")
        return [Table(suite, names(what, "tasks") if "tasks" in what else (), ())]
    require("env" not in what, "env= is of no table: give suite= with it")
    for name in names(what, "table"):
        check_choice("table", name, list(TABLES), {})
    tables = [TABLES[name] for name in names(what, "table")]
    twice = repeated(table.command for table in tables)
    require(twice is None, f"the longest table of {twice} fills the rows of the others as well: leave them out")
    if "tasks" not in what:
        return tables
    for task in names(what, "tasks"):
        check_choice("task in this table", task, [task for table in tables for task in table.tasks], {})
    return [replace(table, tasks=[task for task in names(what, "tasks") if task in table.tasks]) for table in tables]


def length_of(length: Sequence[str], settings: Sequence[str]) -> Sequence[str]:
    """A table's `length`, or nothing where a preset keeps its own. Raises ConfigError if `settings` decide it."""
    for setting in settings:
        decided = any(key_of(setting) == key_of(own) for own in length)
        require(not decided, f"{shorten(setting)} is decided by the table: write another table=, or suite= and tasks=")
    presets = [setting.partition("=")[2] for setting in settings if key_of(setting) == "preset"] if length else []
    require(not presets or "," not in presets[0], "the runs of this table have one preset: give suite= and tasks=")
    return length if presets in ([], ["full"]) else ()


def choose_group(what: dict[str, str]) -> Group | None:
    if "group" not in what:
        return None
    groups = read_groups()
    check_choice("group", what["group"], list(groups), {})
    group = groups[what["group"]]
    return choose_arms(group, names(what, "arms")) if "arms" in what else group


def settings_of(suite: str, common: Sequence[str]) -> list[str]:
    """Settings among `common` that are meant for a suite, without its name before them."""
    named = [(setting, suite_named(setting)) for setting in common]
    return [setting.removeprefix(f"{own}.") for setting, own in named if own in (None, suite)]


def choose_seeds(what: dict[str, str]) -> list[int]:
    listed, given = names(what, "seeds"), f"seeds={shorten(what['seeds'])}"
    require(all(seed.isdecimal() for seed in listed), f"{given} must be integers with commas between")
    require(max(map(len, listed)) <= SEED_DIGITS, f"{given}: an integer of seeds= has at most {SEED_DIGITS} digits")
    require(len(listed) <= MOST_SEEDS, f"{given} are {len(listed)}: give at most {MOST_SEEDS:,}")
    seeds = [int(seed) for seed in listed]
    require(len(set(seeds)) == len(seeds), f"{given} must be different integers")
    if len(seeds) > 1:
        return seeds
    require(0 < seeds[0] <= MOST_SEEDS, f"{given} must be 1..{MOST_SEEDS:,}, the number of seeds, or a list")
    return list(range(1, seeds[0] + 1))


def names(what: dict[str, str], key: str) -> list[str]:
    found = what[key].split(",")
    require(
        all(found) and len(set(found)) == len(found),
        f"{key}={shorten(what[key])} must be different names with commas between",
    )
    return found


def known_jobs() -> dict[str, str]:
    """The jobs in the queue; none, and a line that says so, where it does not answer."""
    if shutil.which("squeue") is None:
        return {}
    try:
        return queue()
    except ConfigError as error:
        print(f"{in_one_line(str(error))}: what waits or runs there is not known", file=sys.stderr)
        return {}


def hand_to_slurm(runs: list[SweepRun], config: SweepConfig, console: Console) -> int:
    """Submits what is neither done nor in the queue, and shows how to watch it."""
    jobs = queue()
    statuses = [read_status(run, jobs) for run in runs]
    console.print(summary(statuses))
    waiting = [each.run for each in statuses if each.state == "failed" or (each.state == "waiting" and not each.queued)]
    if waiting:
        submitted = submit(waiting, config)
        console.print(f"{len(waiting)} runs submitted as {len(submitted)} jobs, {submitted[0]} to {submitted[-1]}")
    else:
        console.print("nothing to submit: what is not done is in the queue or under way")
    return DONE


def run_here(runs: list[SweepRun], config: SweepConfig, console: Console) -> int:
    """Runs what is not done, side by side or where Ray has room; returns the exit code."""
    statuses = [read_status(run, {}) for run in runs]
    waiting = [status.run for status in statuses if status.state != "done"]
    console.print(summary(statuses))
    if not waiting:
        return DONE
    shared = ExitStack()  # resources shared by the runs on one GPU
    service: dict[str, str] = {}
    if config.launcher == "ray":
        connect(config)
        place = partial(run_on_ray, waiting, config)
    else:
        gpus = visible_gpus(config.gpus)
        count = count_places(gpus, config.parallel, config.runs_per_gpu, len(waiting))
        service = shared.enter_context(sharing(gpus, count, console.print))
        shares = [share | service for share in make_shares(gpus, count, len(os.sched_getaffinity(0)))]
        each = (f"{share['OMP_NUM_THREADS']} / {share.get('CUDA_VISIBLE_DEVICES', 'none')}" for share in shares)
        console.print(f"{len(shares)} side by side, threads and GPU of each: {', '.join(each)}")
        place = partial(run_side_by_side, waiting, shares, config.attempts)
    columns = (TextColumn("sweep"), BarColumn(bar_width=24), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
    bar = Progress(*columns, console=console, disable=not console.is_terminal)
    task = bar.add_task("sweep", total=len(runs), completed=len(runs) - len(waiting), note="")
    note_eta = every(ETA_SECONDS, lambda: bar.update(task, note=summary([read_status(run, {}) for run in runs])))
    watch = note_eta if console.is_terminal else lambda: None
    with shared, StopRequest() as request, bar:
        try:
            outcomes = place(stop=lambda: request.requested, ended=partial(report, console, bar, task), watch=watch)
        except KeyboardInterrupt:  # the second one
            bar.stop()
            console.print("left at once; the runs write their checkpoints by themselves")
            if service:
                end = f"echo quit | {PIPE}={service[PIPE]} {CONTROL}"
                console.print(f"MPS is left to them; end it afterwards: {end}")
            sys.stdout.flush()
            os._exit(RESUME_ME)
    console.print(summary([read_status(run, {}) for run in runs]))
    for run, outcome in zip(waiting, outcomes, strict=True):
        if outcome.state == "failed":
            console.print(f"failed   {run.name}: {outcome.reason}")
    if any(outcome.state == "stopped" for outcome in outcomes):
        console.print("stopped; the same command goes on from there")
        return RESUME_ME
    return SOME_FAILED if any(outcome.state == "failed" for outcome in outcomes) else DONE


def report(console: Console, bar: Progress, task: TaskID, run: SweepRun, outcome: Outcome) -> None:
    if outcome.state == "done":
        bar.advance(task)
    if outcome.state != "stopped":
        console.print(f"{time.strftime('%H:%M:%S')}  {outcome.state.ljust(7)}  {run.name}  {outcome.reason}".rstrip())


def every(seconds: float, act: Callable[[], None]) -> Callable[[], None]:
    """`act`, called at most once in `seconds`."""
    due = 0.0

    def watch() -> None:
        nonlocal due
        if time.monotonic() >= due:
            act()
            due = time.monotonic() + seconds

    return watch
