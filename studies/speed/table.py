"""Measured speeds as a table and lines."""

from rich.console import Console
from rich.table import Table


def show(result: dict, known: dict[str, float]) -> None:
    on_gpu = result["device"] == "cuda"
    products = result["precision"] if on_gpu or result["precision"] == "bf16" else "fp32"
    title = f"{result['task']}  size {result['size']}  auxiliary {result['auxiliary']}  {products}"
    table = Table("of one update or step", "ms", "CPU ms", "share", "GFLOP", "x", title=title, title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    together = sum(result["parts"].values())
    for part, seconds in sorted(result["parts"].items(), key=lambda item: item[0] == "rest"):
        cpu_seconds, flops = result["parts_cpu"].get(part), result["parts_flops"].get(part)
        row = [part, ms(seconds), ms(cpu_seconds), f"{seconds / together:.1%}"]
        table.add_row(*row, *([giga(flops), over_products(result, seconds, cpu_seconds, flops)] if flops else []))
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
            table.add_row(f"{of}: {phase}", ms(value), ms(result[seconds.replace("_seconds", "_cpu_seconds")][phase]))
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    for name, line in summary(result).items():
        console.print(f"{name:<12} {line}")


def ms(seconds: float | None) -> str:
    return "" if seconds is None else short(1000 * seconds)


def giga(value: float) -> str:
    return short(value / 1e9)


def over_products(result: dict, seconds: float, cpu_seconds: float | None, flops: float) -> str:
    """Time over that of a matrix product of as many operations, on a CPU in its own seconds."""
    if cpu_seconds is None:
        return f"{seconds * result['matrix_flops_per_second'] / flops:.2f}"
    return f"{cpu_seconds * result['matrix_flops_per_cpu_second'] / flops:.2f}"


def short(value: float) -> str:
    """Three digits that count, or all of them in front of the point."""
    return f"{value:#.3g}".rstrip(".") if value < 999.5 else f"{value:,.0f}"


def summary(result: dict) -> dict[str, str]:
    """Lines below the table, by name."""
    every, machine = result["update_seconds_all"], result["machine"]
    arithmetic = (
        f"{giga(result['flops'])} GFLOP an update, {giga(result['flops_per_second'])} GFLOP/s: "
        f"{result['share_of_matrix_rate']:.0%} of a matrix product's {giga(result['matrix_flops_per_second'])} GFLOP/s"
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
