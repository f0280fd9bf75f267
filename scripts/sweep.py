"""Run a whole table, here or on SLURM: python scripts/sweep.py table=NAME seeds=N [key=value ...]

Runs what is not finished; the same command again continues. Nothing is run twice: a run is continued from its newest
checkpoint however it ended. One that fails for its own reason is named with its last line, and the others go on.

  python scripts/sweep.py ...               run
  python scripts/sweep.py status ...        show where each run of the same settings is
  python scripts/sweep.py --dry-run ...     print the commands

What to run:
  table=atari100k         or dmcontrol100k, dmcontrol500k, or several: table=atari100k,dmcontrol100k
  group=mask_ratio        instead of a table: one of the groups of scripts/ablation.py, with benchmark= and tasks=
  seeds=3                 that many, from 1 on; seeds=4,5,6 are just these
  aux=mlr,none            of a table: MLR, the Baseline, or both; mlr without it
  tasks=pong,boxing       of a table: some of its games or tasks; all without it
  arms=ratio_0.1          of a group: some of its arms
  key=value               any further setting is one of all runs: preset=cpu, fidelity=paper, ...
                          A preset other than full keeps its own length.
                          python scripts/train_atari.py --cfg job shows them all.
  atari.key=value         a setting of one benchmark's runs only, or dmcontrol.key=value
How (configs/sweep.yaml has the rest):
  launcher=local          or slurm, ray
  parallel=2              runs side by side; without it runs_per_gpu on every GPU, and one without a GPU
  runs_per_gpu=4  gpus=0,1
  slurm.partition=NAME  slurm.minutes=1440  slurm.gpus=1  slurm.cpus=4  slurm.runs_per_job=1  slurm.options.account=NAME

Exit codes: 0 all runs are done (or were handed to SLURM), 1 some failed, 2 wrong input, 75 stopped: the same command
goes on. docs/scale.md says what a table costs and how to size shares.
"""

import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import partial

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from atari.games import GAMES
from harness.command_line import (
    Options,
    check_choice,
    config_groups,
    in_one_line,
    refuse,
    repeated,
    schema_keys,
    shorten,
)
from harness.config import ConfigError, require
from harness.exit_codes import DONE, RESUME_ME
from harness.stop import StopRequest
from harness.sweeps.attempt import Outcome, require_tools
from harness.sweeps.config import SweepConfig, is_own, read_sweep_config
from harness.sweeps.local import count_places, make_shares, run_side_by_side, visible_gpus
from harness.sweeps.plan import SweepRun, group_runs, in_order, table_runs
from harness.sweeps.ray import connect, run_on_ray
from harness.sweeps.slurm import queue, submit
from harness.sweeps.status import read_status, summary, table
from scripts.ablation import MOST_SEEDS, NOT_OF_ALL, choose_group, names, read_seeds
from scripts.benchmarks import COMMANDS, TASK_KEYS

SOME_FAILED = 1
ETA_SECONDS = 20  # between two looks at all run folders
WHAT = ("table", "group", "benchmark", "tasks", "arms", "aux", "seeds")
TABLES = {
    "atari100k": ("atari", ()),
    "dmcontrol100k": ("dmcontrol", ("budget=100k",)),
    "dmcontrol500k": ("dmcontrol", ("budget=500k",)),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Options(__doc__)
    parser.add_argument("settings", nargs="*", metavar="key=value", help="with `status` before them: only look")
    parser.add_argument("--dry-run", action="store_true", help="print the commands")
    console = Console(highlight=False, soft_wrap=True, markup=False)
    try:
        options = parser.parse_intermixed_args(arguments)
        look = options.settings[:1] == ["status"]
        what, own, common = read_settings(options.settings[1:] if look else options.settings)
        config = read_sweep_config(own)
        runs = plan(what, common)
        if options.dry_run:
            console.print("\n".join(f"{run.name}: python {shlex.join(run.arguments)}" for run in runs))
            console.print(f"{len(runs)} runs")
            return DONE
        if look:
            jobs = known_jobs()
            console.print(table([read_status(run, jobs) for run in runs]))
            return DONE
        require_tools()
        if config.launcher == "slurm":
            return hand_to_slurm(runs, config, console)
        return run_here(runs, config, console)
    except ConfigError as error:
        return refuse(ConfigError(str(error).replace("--cfg job shows them all", "--help says which there are")))


def read_settings(settings: Sequence[str]) -> tuple[dict[str, str], list[str], list[str]]:
    """What to run, by name; the settings of the sweep itself; those of all runs."""
    what: dict[str, str] = {}
    own, common = [], []
    of_runs = {key for command in COMMANDS.values() for key in schema_keys(command.schema)}
    for setting in settings:
        key, equals, value = setting.partition("=")
        require(bool(equals), f"cannot read '{setting}': settings are written key=value, --help shows them")
        name = key_of(setting)
        require(name not in NOT_OF_ALL, f"{key} is decided by {NOT_OF_ALL.get(name)}=...")
        require(key in WHAT or name not in WHAT, f"{key} is written {name}={shorten(value)}, for all runs")
        close = [] if key in of_runs else get_close_matches(key, [*WHAT, *schema_keys(SweepConfig)], n=1, cutoff=0.8)
        require(not close or key in close, f"no key {key}; did you mean {''.join(close)}?")
        if key in WHAT:
            what[key] = value
        else:
            (own if is_own(key) else common).append(setting)
    for benchmark in COMMANDS:
        keys = [key_of(setting) for setting in settings_of(benchmark, settings)]
        twice = repeated(keys)
        require(twice is None, f"{twice} is given twice")
    return what, own, common


def key_of(setting: str) -> str:
    """Its key without a benchmark's name and without Hydra's signs."""
    key = setting.partition("=")[0]
    for benchmark in COMMANDS:
        key = key.removeprefix(f"{benchmark}.")
    return key.lstrip("+~")


def plan(what: dict[str, str], common: list[str]) -> list[SweepRun]:
    """Every run, each found valid. Raises ConfigError."""
    require(("table" in what) != ("group" in what), f"give table={'|'.join(TABLES)}, or group=NAME of an ablation")
    require("seeds" in what, "seeds must be given: seeds=3 are three, seeds=4,5 are these")
    seeds = choose_seeds(what)
    if "table" in what:
        unfit = {"benchmark", "arms"} & what.keys()
        require(not unfit, f"{', '.join(sorted(unfit))}= belongs to group=NAME, not to a table")
        return in_order(plan_tables(what, seeds, common))
    missing = {"benchmark", "tasks"} - what.keys()
    require(not missing, f"{' and '.join(sorted(missing))} must be given with group={what['group']}")
    group, command, tasks = choose_group(what)
    require_benchmarks(common, [what["benchmark"]])
    require("," not in what.get("aux", ""), f"aux={what.get('aux')}: all arms of a group have one aux, such as aux=mlr")
    aux = [f"aux={what['aux']}"] if "aux" in what else []
    return in_order(group_runs(group, command, tasks, seeds, [*aux, *settings_of(what["benchmark"], common)]))


def plan_tables(what: dict[str, str], seeds: list[int], common: list[str]) -> list[SweepRun]:
    tables = names(what, "table")
    for name in tables:
        check_choice("table", name, list(TABLES), {})
    require(
        not {"dmcontrol100k", "dmcontrol500k"} <= set(tables),
        "the runs of dmcontrol500k fill the rows of dmcontrol100k as well: leave out table dmcontrol100k",
    )
    benchmarks = {name: TABLES[name][0] for name in tables}
    require_benchmarks(common, list(benchmarks.values()))
    require_no_budget(common)
    tasks = {name: benchmark_tasks(benchmark) for name, benchmark in benchmarks.items()}
    chosen = names(what, "tasks") if "tasks" in what else [task for found in tasks.values() for task in found]
    for task in chosen:
        check_choice("task in this table", task, [task for found in tasks.values() for task in found], {})
    arms = names(what, "aux") if "aux" in what else ["mlr"]
    runs = []
    for name in tables:
        command, key = COMMANDS[benchmarks[name]], TASK_KEYS[benchmarks[name]]
        settings = settings_of(benchmarks[name], common)
        presets = [setting for setting in settings if key_of(setting) == "preset"]
        length = TABLES[name][1] if presets in ([], ["preset=full"]) else ()
        wanted = [task for task in chosen if task in tasks[name]]
        runs += table_runs(command, key, wanted, arms, seeds, [*length, *settings])
    return runs


def settings_of(benchmark: str, common: Sequence[str]) -> list[str]:
    """Those of `common` that are meant for a benchmark, without its name before them."""
    others = tuple(f"{name}." for name in COMMANDS if name != benchmark)
    return [setting.removeprefix(f"{benchmark}.") for setting in common if not setting.startswith(others)]


def require_benchmarks(common: Sequence[str], benchmarks: Sequence[str]) -> None:
    for setting in common:
        name = next((name for name in COMMANDS if setting.startswith(f"{name}.")), None)
        require(name is None or name in benchmarks, f"{shorten(setting)} is of no run here: leave it out")


def require_no_budget(common: Sequence[str]) -> None:
    for setting in common:
        name = f"dmcontrol{setting.partition('=')[2]}"
        close = name if name in TABLES else "dmcontrol100k or dmcontrol500k"
        require(key_of(setting) != "budget", f"{shorten(setting)} is decided by the table: write table={close}")


def benchmark_tasks(benchmark: str) -> list[str]:
    return list(GAMES) if benchmark == "atari" else config_groups(benchmark)["task"]


def choose_seeds(what: dict[str, str]) -> list[int]:
    listed = read_seeds(what)
    if len(listed) > 1:
        return listed
    require(0 < listed[0] <= MOST_SEEDS, f"seeds={listed[0]} must be 1..{MOST_SEEDS:,}, the number of seeds, or a list")
    return list(range(1, listed[0] + 1))


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
    waiting = [
        status.run
        for status in statuses
        if status.state == "failed" or (status.state == "waiting" and not status.queued)
    ]
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
    if config.launcher == "ray":
        connect(config)
        place = partial(run_on_ray, waiting, config)
    else:
        gpus = visible_gpus(config.gpus)
        count = count_places(gpus, config.parallel, config.runs_per_gpu, len(waiting))
        shares = make_shares(gpus, count, len(os.sched_getaffinity(0)))
        console.print(f"{len(shares)} side by side, threads and GPU of each: {describe(shares)}")
        place = partial(run_side_by_side, waiting, shares, config.attempts)
    bar = Progress(
        TextColumn("sweep"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=not console.is_terminal,
    )
    task = bar.add_task("sweep", total=len(runs), completed=len(runs) - len(waiting), note="")
    note_eta = every(ETA_SECONDS, lambda: bar.update(task, note=summary([read_status(run, {}) for run in runs])))
    watch = note_eta if console.is_terminal else lambda: None
    with StopRequest() as request, bar:
        try:
            outcomes = place(stop=lambda: request.requested, ended=partial(report, console, bar, task), watch=watch)
        except KeyboardInterrupt:  # the second one
            bar.stop()
            console.print("left at once; the runs write their checkpoints by themselves")
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


def describe(shares: list[dict[str, str]]) -> str:
    return ", ".join(f"{share['OMP_NUM_THREADS']} / {share.get('CUDA_VISIBLE_DEVICES', 'none')}" for share in shares)


def report(console: Console, bar: Progress, task: int, run: SweepRun, outcome: Outcome) -> None:
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


if __name__ == "__main__":
    sys.exit(main())
