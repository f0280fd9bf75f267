"""Stages that measure, each in a process of its own: python -m studies.gpu_report.work STAGE DEVICE PRESET OUT"""

import gzip
import math
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch

from harness.hardware import matrix_rate
from harness.parts import choose_device, is_captured, recorded_updates
from harness.precision import set_precision
from harness.run_folder import environment
from recipes import COMMANDS, load_recipe
from studies.gpu_report.lines import newest_lines, read_lines, write_line
from studies.speed.__main__ import TASKS
from studies.speed.hardware import copy_rate
from studies.speed.measure import filled_parts, measure
from studies.speed.updates import time_updates, updates_to_trace, write_trace

SUITES = ("dmcontrol", "atari")
PRECISIONS = ("bf16", "tf32", "fp32")
# Most wanted first.
SPEEDS = (
    ("mlr", "bf16"), ("none", "bf16"), ("mlr", "bf16", "fused=off"), ("mlr", "tf32"), ("none", "tf32"), ("spr", "bf16"),
    ("spr", "tf32"),
)  # fmt: skip
REPEATS = {"cuda": 30, "cpu": 1}
SECONDS = {"cuda": 1.0, "cpu": 0.05}  # duration of each further measurement
SMOKE_UPDATES = 3

Work = dict[str, Callable[[], dict]]


def main(stage: str, device: str, preset: str, out: str) -> int:
    """Does the items of a stage that are not in the file yet. One that fails is a line too."""
    lines, chosen = Path(out) / "lines.jsonl", choose_device(device)
    known = {item for item, line in newest_lines(read_lines(lines), stage).items() if "error" not in line}
    failed = 0
    for item, work in STAGES[stage](chosen, preset, Path(out)).items():
        if item in known:
            continue
        begin = time.perf_counter()
        try:
            found = work()
        except Exception as error:  # any error that a new GPU brings; the other items are still wanted
            traceback.print_exc()
            found, failed = {"error": f"{type(error).__name__}: {error}"[:2000]}, failed + 1
        write_line(lines, stage, item=item, **found, seconds=round(time.perf_counter() - begin, 2))
    return failed


def compose(suite: str, device: torch.device, preset: str, *overrides: str):
    name = "cuda" if device.type == "cuda" else "cpu"
    config = COMMANDS[suite].resolve([TASKS[suite], f"preset={preset}", f"device={name}", *overrides])
    return config, load_recipe(config)


def machine(device: torch.device, preset: str, out: Path) -> Work:
    seconds = SECONDS[device.type]

    def product(precision: str) -> dict:
        set_precision(precision, deterministic=False)
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        return {"flops_per_second": matrix_rate(device, dtype, seconds).per_second}

    def renderer() -> dict:
        config, recipe = compose("dmcontrol", device, preset)
        place = recipe.suite.make_environment(config, 1, 0, True)
        return {"renderer": recipe.suite.manifest(config, place).get("renderer")}

    return {
        "environment": environment,
        "copy": lambda: {"bytes_per_second": copy_rate(device, seconds).per_second},
        **{f"product {precision}": partial(product, precision) for precision in PRECISIONS},
        "renderer": renderer,
    }


def smoke(device: torch.device, preset: str, out: Path) -> Work:
    def compare(suite: str, precision: str) -> dict:
        """Metrics of updates as a run makes them against eager ones, from equal weights, data and draws."""
        config, recipe = compose(suite, device, "tiny", f"precision={precision}")
        with ExitStack() as stack:
            eager, other = (stack.enter_context(filled_parts(config, recipe, device)) for _ in range(2))
            captured = is_captured(config, device)
            update = other.agent.update
            if captured:
                update = recorded_updates(config, other.agent, other.replay, device)
            largest, name = 0.0, ""
            for _ in range(SMOKE_UPDATES):
                step = config.loop.learning_starts
                expected = {
                    key: float(value) for key, value in eager.agent.update(eager.replay, step, "update").items()
                }
                for key, value in update(other.replay, step, "update").items():
                    difference = abs(float(value) - expected[key]) / max(abs(expected[key]), 1e-3)
                    if not math.isnan(largest) and not difference <= largest:  # a NaN stays
                        largest, name = difference, key
        return {"captured": captured, "largest_relative_difference": largest, "metric": name}

    return {f"{suite} {precision}": partial(compare, suite, precision) for suite in SUITES for precision in PRECISIONS}


def speed(suite: str, device: torch.device, preset: str, out: Path) -> Work:
    def timed(auxiliary: str, precision: str, *further: str) -> dict:
        config, recipe = compose(suite, device, preset, f"auxiliary={auxiliary}", f"precision={precision}", *further)
        repeats = REPEATS[device.type]
        if (auxiliary, precision, *further) == SPEEDS[0]:  # with environment, evaluation and counted operations
            return measure(config, recipe, repeats, SECONDS[device.type], {}, None)
        with filled_parts(config, recipe, device) as parts:
            return time_updates(config, parts, device, repeats)

    return {" ".join(settings): partial(timed, *settings) for settings in SPEEDS}


def traces(device: torch.device, preset: str, out: Path) -> Work:
    def trace(suite: str) -> dict:
        config, recipe = compose(suite, device, preset, "precision=bf16")
        file = out / f"trace_{suite}.json"
        with filled_parts(config, recipe, device) as parts:
            time_updates(config, parts, device, 1)
            write_trace(updates_to_trace(config, parts, is_captured(config, device)), device, file)
        packed = file.with_suffix(".json.gz")
        packed.write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
        return {"file": packed.name, "bytes": packed.stat().st_size}

    return {suite: partial(trace, suite) for suite in SUITES}


STAGES = {
    "machine": machine,
    "smoke": smoke,
    "speed_dmcontrol": partial(speed, "dmcontrol"),
    "speed_atari": partial(speed, "atari"),
    "traces": traces,
}

if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
