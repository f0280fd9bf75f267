"""Measure how fast this machine trains: python scripts/benchmark.py atari|dmcontrol [key=value ...]

Prints a table: an update and its parts, agent steps with the environment, the environment alone, evaluation, and what
the machine's own matrix product and memory reach in the same process. Further settings are those of the training
scripts, such as precision=bf16, capture=off, threads=1; DMControl's task is cartpole_swingup unless one is named.
What the numbers mean: docs/performance.md.

Examples:
  python scripts/benchmark.py atari --size full --aux mlr --repeats 20 --json atari.json
  python scripts/benchmark.py dmcontrol --size quick precision=bf16 task=walker_walk
  python scripts/benchmark.py atari --size tiny --profile trace.json    # for chrome://tracing or ui.perfetto.dev
  python scripts/benchmark.py atari --deterministic     # on a GPU: what updates that repeat bit for bit cost
  python scripts/benchmark.py atari --against precision=bf16 --against mlr.seq_len=8      # updates of these beside it
"""

import argparse
import json
import os
import sys
from pathlib import Path

from harness.command_line import CONFIGS, Options, check_single, complain, refuse
from harness.config import ConfigError, above, at_least, require
from harness.exit_codes import DISK_FAILED, DONE
from scripts.benchmarks import COMMANDS, load_benchmark

OPTIONS = {"preset": "--size", "aux": "--aux"}
TASK = "task=cartpole_swingup"
REPEATABLE = "deterministic=true"


def main(arguments: list[str] | None = None) -> int:
    parser = Options(__doc__)
    parser.add_argument("benchmark", choices=("atari", "dmcontrol"))
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--size", choices=("tiny", "quick", "cpu", "full"), default="full", help="the preset")
    parser.add_argument("--aux", choices=("mlr", "none"), default="mlr", help="none: the Baseline")
    parser.add_argument("--repeats", type=int, default=5, help="timings of an update")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each of the other measurements")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    parser.add_argument("--profile", type=Path, help="write a trace of some updates to this file")
    parser.add_argument("--deterministic", action="store_true", help="on a GPU: --against deterministic=true")
    parser.add_argument("--against", action="append", default=[], metavar="key=value", help="time updates of this too")
    try:
        options = parser.parse_intermixed_args(arguments)
        at_least(1, "--", options, "repeats")
        above(0, "--", options, "seconds")
        for name in ("json", "profile"):
            file = getattr(options, name)
            require(file is None or file.absolute().parent.is_dir(), f"--{name} {file}: there is no such folder")
            require(file is None or not file.is_dir(), f"--{name} {file} is a folder: name a file")
        config, others = compose(options), {each: compose(options, each) for each in options.against}
        if options.deterministic:
            others[REPEATABLE] = compose(options, REPEATABLE)
        run(options, config, others, [sys.argv[0], *(sys.argv[1:] if arguments is None else arguments)])
    except ConfigError as error:
        return refuse(error)
    except OSError as error:
        complain(str(error))
        return DISK_FAILED
    return DONE


def compose(options: argparse.Namespace, *further: str):
    """The configuration, with `further` settings; raises ConfigError."""
    overrides = [*options.overrides, *further]
    keys = [override.split("=")[0] for override in overrides]
    for key in keys:
        require(key not in OPTIONS, f"{key} is an option here: write {OPTIONS.get(key)}")
    check_single(overrides)
    named = options.benchmark == "atari" or "task" in keys or "domain" in keys
    settings = [f"preset={options.size}", f"aux={options.aux}", *([] if named else [TASK]), *overrides]
    return COMMANDS[options.benchmark].resolve(settings)[1]


def run(options: argparse.Namespace, config, others: dict, command: list[str]) -> None:
    from harness.run import choose_device  # imports torch
    from harness.run_folder import environment
    from studies.speed import measure

    machine = {"load_before": os.getloadavg()[0]}
    if choose_device(config.device).type == "cpu" and others.pop(REPEATABLE, None):
        print("deterministic=true changes nothing on a CPU: updates repeat bit for bit anyway")
    benchmark = load_benchmark(options.benchmark)
    measured = measure(config, benchmark, options.repeats, options.seconds, others, options.profile)
    result = {
        "benchmark": options.benchmark,
        "task": config.task,
        "size": options.size,
        "aux": config.aux,
        "precision": config.precision,
        "command": " ".join(command),
        "machine": environment() | machine,
        **measured,
    }
    show(result, goals(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


def goals(result: dict) -> dict[str, float]:
    """What is known of this update on this GPU; nothing of any other."""
    import yaml

    if (result["size"], result["aux"]) != ("full", "mlr") or result["device"] != "cuda":
        return {}
    known = yaml.safe_load((CONFIGS / "gpu_goals.yaml").read_text())
    return next((known[name][result["benchmark"]] for name in known if name in result["machine"]["gpu"]), {})


def show(result: dict, known: dict[str, float]) -> None:
    from rich.console import Console
    from rich.table import Table

    on_gpu = result["device"] == "cuda"
    products = result["precision"] if on_gpu or result["precision"] == "bf16" else "fp32"
    title = f"{result['task']}  size {result['size']}  aux {result['aux']}  {products}"
    table = Table("of one update or step", "ms", "CPU ms", "share", title=title, title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    together = sum(result["parts"].values())
    for part, seconds in sorted(result["parts"].items(), key=lambda item: item[0] == "rest"):
        table.add_row(part, ms(seconds), ms(result["parts_cpu"].get(part)), f"{seconds / together:.1%}")
    table.add_section()
    if on_gpu:
        table.add_row("parts together, without waits", ms(together))
    kinds = {"eager_": "update, eager", "": "update, captured"} if result["captured"] else {"": "update, eager"}
    for kind, name in kinds.items():
        table.add_row(name, ms(result[f"{kind}update_seconds"]), ms(result[f"{kind}update_cpu_seconds"]))
    for name, other in result["compared"].items():
        table.add_row(f"update, {name}", ms(other["update_seconds"]), ms(other["update_cpu_seconds"]))
    for name, milliseconds in known.items():
        table.add_row(name, short(milliseconds))
    for of, seconds in (("agent step", "agent_step_seconds"), ("environment alone", "environment_step_seconds")):
        table.add_section()
        for phase, value in result[seconds].items():
            table.add_row(f"{of}: {phase}", ms(value))
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    for name, line in summary(result).items():
        console.print(f"{name:<12} {line}")


def ms(seconds: float | None) -> str:
    return "" if seconds is None else short(1000 * seconds)


def short(value: float) -> str:
    """Three digits that count, or all of them in front of the point."""
    return f"{value:#.3g}".rstrip(".") if value < 999.5 else f"{value:,.0f}"


def summary(result: dict) -> dict[str, str]:
    """What the table has no room for, a line each."""
    every, machine = result["update_seconds_all"], result["machine"]
    arithmetic = (
        f"{short(result['flops'] / 1e9)} GFLOP an update, {short(result['flops_per_second'] / 1e9)} GFLOP/s: "
        f"{result['share_of_matrix_rate']:.0%} of a matrix product's {short(result['matrix_flops_per_second'] / 1e9)}"
    )
    if "share_of_matrix_rate_cpu" in result:
        arithmetic += f"; {result['share_of_matrix_rate_cpu']:.0%} by CPU seconds"
    taken = result["peak_memory_bytes"]
    peak = "unknown" if taken is None else f"{short(taken / 1e9)} GB at most"
    lines = {
        "updates": f"{len(every)} timings, {ms(min(every))} to {ms(max(every))} ms",
        "arithmetic": arithmetic,
        "memory": f"{peak}; copies {short(result['bandwidth'] / 1e9)} GB/s, at which Adam's pass over "
        f"{short(result['trained_parameters'] / 1e6)} M values takes {ms(result['adam_seconds_at_bandwidth'])} ms",
        "replay": f"{result['replay_steps']:,} steps stored; {short(result['replay_bytes'] / 1e9)} GB when full",
        "training": f"{short(result['agent_steps_per_second'])} agent steps/s, "
        f"{short(result['updates_per_agent_step'])} updates each",
        "environment": f"{short(result['environment_frames_per_second'])} frames/s",
        "evaluation": f"{short(result['evaluation_frames_per_second'])} frames/s, "
        f"{result['evaluation_environments']} environments at once, {result['evaluation_workers']} worker processes",
        "machine": f"{machine['gpu'] or machine['cpu']}, {machine['torch_threads']} threads, "
        f"load {machine['load_before']:.1f} before; torch {machine['torch']}, Python {machine['python']}, "
        f"commit {(machine['git_commit'] or 'unknown')[:7]}{' with changes' if machine['git_dirty'] else ''}",
    }
    if result["renderer"]:
        lines["environment"] += f", drawn by {result['renderer']}"
    for name, other in result["compared"].items():
        lines[name] = f"takes {other['update_seconds_ratio']:.2f} times as long"
        if result["device"] == "cpu":
            lines[name] += f", {other['update_cpu_seconds_ratio']:.2f} times the CPU's seconds"
    return lines


if __name__ == "__main__":
    sys.exit(main())
