"""Lines of a report as the tables of docs/performance.md."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from studies.gpu_report.lines import newest_lines, read_lines
from studies.speed.table import ms, short

LABELS = {"speed_dmcontrol": "DMControl", "speed_atari": "Atari"}


def write_summary(out: Path, lines: Path) -> None:
    (out / "performance.md").write_text("\n".join([*page(read_lines(lines))]) + "\n")


def page(lines: list[dict]) -> Iterator[str]:
    machine = {name: line for name, line in newest_lines(lines, "machine").items() if "error" not in line}
    if "environment" in machine:
        place = machine["environment"]
        commit = f"{(place['git_commit'] or 'unknown')[:7]}{' with changes' if place['git_dirty'] else ''}"
        day, versions = place["time"][:10], f"torch {place['torch']}, Python {place['python']}"
        yield f"{place['gpu'] or place['cpu']}, {day}, {versions}, commit {commit}.\n"
    rates = [f"{name} {short(line['flops_per_second'] / 1e12)} TFLOP/s" for name, line in machine.items()
             if "flops_per_second" in line]  # fmt: skip
    if "copy" in machine:
        rates.append(f"copy {short(machine['copy']['bytes_per_second'] / 1e9)} GB/s")
    if "renderer" in machine:
        rates.append(f"renderer {machine['renderer']['renderer']}")
    if rates:
        yield f"{', '.join(rates)}.\n"
    yield from updates(lines)
    yield from smoke(lines)
    outcomes = Counter(line["outcome"] for line in newest_lines(lines, "tests").values())
    if outcomes:
        yield f"tests/test_gpu.py: {', '.join(f'{count} {name}' for name, count in outcomes.items())}.\n"
    yield "| stage | ended | seconds |\n|---|---|---|"
    newest = {line["stage"]: line for line in lines if "ended" in line}
    for name, line in newest.items():
        yield f"| {name} | {line['ended']} | {line['seconds']} |"
    for name in dict.fromkeys(line["stage"] for line in lines):
        for item, line in newest_lines(lines, name).items():
            if "error" in line:
                yield f"\n{name}, {item}: {' '.join(line['error'].split())[-300:]}"


def updates(lines: list[dict]) -> Iterator[str]:
    """Times of whole updates, then their parts."""
    timed = [
        (f"{LABELS[stage]}, {item}", line)
        for stage in LABELS
        for item, line in newest_lines(lines, stage).items()
        if "error" not in line
    ]
    if not timed:
        return
    yield "| milliseconds | update | eager | host, to enqueue one | memory, GB |\n|---|---|---|---|---|"
    for name, line in timed:
        eager = ms(line.get("eager_update_seconds", line["update_seconds"]))
        memory = line["peak_memory_bytes"]
        cells = [ms(line["update_seconds"]), eager, ms(line["update_cpu_seconds"])]
        yield f"| {name} | {' | '.join(cells)} | {'' if memory is None else short(memory / 1e9)} |"
    parts = dict.fromkeys(part for _, line in timed for part in line["parts"])
    yield f"\n| parts, milliseconds | {' | '.join(parts)} |\n|{'---|' * (len(parts) + 1)}"
    for name, line in timed:
        yield f"| {name} | {' | '.join(ms(line['parts'].get(part)) for part in parts)} |"
    yield ""
    for name, line in timed:
        if "agent_steps_per_second" in line:
            yield (
                f"{name}: {short(line['agent_steps_per_second'])} agent steps/s, environment alone "
                f"{short(line['environment_frames_per_second'])} frames/s, evaluation "
                f"{short(line['evaluation_frames_per_second'])} frames/s.\n"
            )


def smoke(lines: list[dict]) -> Iterator[str]:
    found = {item: line for item, line in newest_lines(lines, "smoke").items() if "error" not in line}
    if found:
        yield "| updates of tiny agents | recorded | largest relative difference from eager ones |\n|---|---|---|"
        for item, line in found.items():
            recorded = "yes" if line["captured"] else "no"
            yield f"| {item} | {recorded} | {line['largest_relative_difference']:.1e} ({line['metric'] or 'none'}) |"
        yield ""
