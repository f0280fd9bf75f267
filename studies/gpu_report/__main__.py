"""Measure a GPU within a budget of seconds: python scripts/gpu_report.py [--budget SECONDS] [--out DIR]

Stages, most wanted first: rates of the machine, recorded updates against eager ones, times of updates, the tests that
need a GPU, traces, and two whole runs. Each is a process with a limit of its own, and appends to OUT/lines.jsonl as
soon as it knows something. A stage that needs more than is left of the budget is left out. The same command again does
what is missing. It ends by writing OUT/performance.md, and OUT/results with the CSV files of the runs.

Examples:
  python scripts/gpu_report.py --budget 900 --out gpu_report
  python scripts/gpu_report.py --stages machine,smoke
  python scripts/gpu_report.py --device cpu --preset tiny      # a rehearsal
"""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.command_line import Options, at_least
from harness.config import ConfigError, require
from harness.exit_codes import DISK_FAILED, DONE, FAILED
from harness.files import CONFIGS, ROOT
from harness.messages import complain, refuse
from studies.gpu_report.lines import FILE, read_lines, write_line
from studies.gpu_report.summary import write_summary

GRACE = 15.0  # seconds between the word and the end of a stage: a run writes a checkpoint
POLL = 0.5  # seconds
KEPT = ("config.yaml", "manifest.json", "metrics.csv", "evaluations.csv")
# Whole runs: the module that trains, its settings, and the name of the run's copy in OUT/results.
RUNS = {
    "run_dmcontrol": (
        "commands.train_dmcontrol",
        ["task=cartpole_swingup", "budget=100k", "auxiliary=mlr", "precision=bf16"],
        "cartpole_swingup/mlr-bf16_seed_1",
    ),
    "run_atari": ("commands.train_atari", ["game=boxing", "auxiliary=none"], "boxing/baseline_seed_1"),
}


@dataclass(frozen=True)
class Stage:
    name: str
    needs: float  # seconds of budget without which it is not begun
    limit: float  # seconds
    command: list[str]
    watch: Callable[[], None]


def main(arguments: list[str] | None = None) -> int:
    import yaml

    known = yaml.safe_load((CONFIGS / "gpu_report.yaml").read_text())
    parser = Options(__doc__, "python scripts/gpu_report.py")
    parser.add_argument("--budget", type=at_least(1), default=900, metavar="SECONDS", help="for all of it")
    parser.add_argument("--out", type=Path, default=Path("gpu_report"), help="folder of what it finds out, small")
    parser.add_argument("--runs", type=Path, default=Path("runs/gpu_report"), help="folder of the runs, gigabytes")
    parser.add_argument("--stages", default=",".join(known), help=f"some of {','.join(known)}")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--preset", choices=("tiny", "quick", "cpu", "full"), default="full")
    try:
        options = parser.parse_args(arguments)
        chosen = options.stages.split(",")
        unknown = [name for name in chosen if name not in known]
        require(not unknown, f"--stages: {','.join(unknown)} is not one of {', '.join(known)}")
        require(not options.out.is_file(), f"--out {options.out} is a file: name a folder")
        if options.device == "cuda":
            import torch

            require(torch.cuda.is_available(), "torch finds no GPU: --device cpu --preset tiny rehearses without one")
        lines = options.out / "lines.jsonl"
        what = {"device": options.device, "preset": options.preset}
        begun = [line for line in read_lines(lines) if line["stage"] == "report"]
        require(
            all({key: line[key] for key in what} == what for line in begun),
            f"--out {options.out} has lines of another --device or --preset: choose another folder",
        )
        options.out.mkdir(parents=True, exist_ok=True)
        write_line(lines, "report", **what, budget=options.budget, time=time.strftime("%Y-%m-%dT%H:%M:%S%z"))
        stages = [stage for stage in make_stages(options, known) if stage.name in chosen]
        return visit(stages, lines, options.budget, options.out)
    except ConfigError as error:
        return refuse(error)
    except OSError as error:
        complain(str(error))
        return DISK_FAILED


def make_stages(options, known: dict) -> Iterator[Stage]:
    for name, seconds in known.items():
        watch = nothing
        if name == "tests":
            spread = ["-n", "4"] * (importlib.util.find_spec("xdist") is not None)
            marked = "gpu" if options.device == "cuda" else "not gpu"
            command = ["-m", "pytest", "-q", "-m", marked, *spread, "-p", "studies.gpu_report.lines"]
            command += ["-p", "no:cacheprovider", "tests/test_gpu.py"]
        elif name in RUNS:
            module, settings, copy = RUNS[name]
            if options.preset != "full":  # other presets have a length of their own
                settings = [each for each in settings if not each.startswith("budget=")]
            run = options.runs.absolute() / name
            settings = [*settings, f"preset={options.preset}", f"device={options.device}", "video=false"]
            command = ["-m", module, *settings, f"run_dir='{run}'"]
            watch = Copies(run, options.out / "results" / "runs" / "gpu" / copy)
        else:
            command = [
                "-m",
                "studies.gpu_report.work",
                name,
                options.device,
                options.preset,
                str(options.out.absolute()),
            ]
        yield Stage(name, **seconds, command=[sys.executable, *command], watch=watch)


def nothing() -> None:
    """A stage without files to watch."""


class Copies:
    """Copies the small files of a run folder whenever one has changed."""

    def __init__(self, run: Path, target: Path):
        self._run, self._target, self._seen = run, target, {}

    def __call__(self) -> None:
        for name in KEPT:
            file = self._run / name
            if file.is_file() and self._seen.get(name) != (stamp := file.stat().st_mtime_ns):
                self._target.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, self._target / name)
                self._seen[name] = stamp


def visit(stages: list[Stage], lines: Path, budget: float, out: Path) -> int:
    """Does each stage that is not done and fits, one after the other."""
    end, failed = time.monotonic() + budget, []
    try:
        for stage in stages:
            ended = {line["stage"] for line in read_lines(lines) if line.get("ended") == "done"}
            if stage.name in ended:
                print(f"{stage.name}: done by an earlier call", flush=True)
                continue
            left = end - time.monotonic() - GRACE
            if left < stage.needs:
                how, seconds = f"left out: it needs {stage.needs:g} s, {max(left, 0):.0f} s are left", 0.0
            else:
                print(f"{stage.name}: begins, {left:.0f} s are left", flush=True)
                begin = time.monotonic()
                how = run(stage, lines, min(stage.limit, left))
                seconds = time.monotonic() - begin
                if how.startswith("failed"):
                    failed.append(stage.name)
            write_line(lines, stage.name, ended=how, seconds=round(seconds, 1))
            print(f"{stage.name}: {how}, {seconds:.0f} s", flush=True)
    finally:
        write_summary(out, lines)
        print(f"wrote {out / 'performance.md'}", flush=True)
    return FAILED if failed else DONE


def run(stage: Stage, lines: Path, limit: float) -> str:
    """Runs a stage's process for at most `limit` seconds and GRACE; returns how it ended."""
    log = lines.with_name(f"{stage.name}.log")
    end = time.monotonic() + limit
    paths = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(ROOT))))
    environment = os.environ | {FILE: str(lines.absolute()), "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"}
    with log.open("ab") as output:
        process = subprocess.Popen(
            stage.command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            while process.poll() is None and time.monotonic() < end:
                time.sleep(POLL)
                stage.watch()
            ended = process.poll() is not None
        finally:
            stop(process)
            stage.watch()
    if not ended:
        return f"ended after its limit of {limit:.0f} s"
    return "done" if process.returncode == 0 else f"failed with exit code {process.returncode}, see {log.name}"


def stop(process: subprocess.Popen) -> None:
    """Ends a stage with all processes that it has started."""
    for end in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, end)
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                continue


if __name__ == "__main__":
    sys.exit(main())
