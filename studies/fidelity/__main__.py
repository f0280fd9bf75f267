"""Measure what the rows of docs/fidelity.md change: python -m studies.fidelity [F1 F7 ...] [key=value ...]

Without names it measures every row that can be measured, with fresh weights, on random play in the real environments.
Settings such as preset=tiny change all configurations; those of one suite need --suite.

Examples:
  python -m studies.fidelity --out docs/fidelity_effects.csv
  python -m studies.fidelity --docs           # writes that file's numbers into docs/fidelity.md
  python -m studies.fidelity F6 --counted-steps 10000
  python -m studies.fidelity F7 --suite dmcontrol agent.encoder.latent=100
"""

import argparse
import platform
import re
import sys
import time
from dataclasses import fields
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

from harness.command_line import Options, at_least
from harness.config import ConfigError, require
from harness.messages import refuse
from studies.fidelity.effects import COLUMNS, Effect, markdown, read_csv, write_csv

DOCS = Path(__file__).parents[2] / "docs"
LEDGER, EFFECTS = DOCS / "fidelity.md", DOCS / "fidelity_effects.csv"
START, END = "<!-- effects -->", "<!-- end of effects -->"
SUITES = ("atari", "dmcontrol")
PACKAGES = ("torch", "numpy", "ale-py", "dm_control", "mujoco")


def main(arguments: list[str] | None = None) -> int:
    parser = Options(__doc__, "python -m studies.fidelity")
    parser.add_argument("what", nargs="*", metavar="F1 | key=value", help="rows to measure, and settings")
    parser.add_argument("--suite", choices=SUITES, help="measure this one alone")
    parser.add_argument("--out", type=Path, help="CSV file for the numbers")
    parser.add_argument("--docs", action="store_true", help=f"measure nothing; {EFFECTS.name} into {LEDGER.name}")
    parser.add_argument("--seeds", type=at_least(1), default=3, help="of weights, masks and augmentations")
    parser.add_argument("--windows", type=at_least(1), default=4, help="in a batch")
    parser.add_argument("--steps", type=at_least(1), default=500, help="agent steps of random play, for the batches")
    parser.add_argument("--counted-steps", type=at_least(1), default=3000, help="the same in each game of F6")
    parser.add_argument("--updates", type=at_least(1), default=100, help="of the short trainings in F15")
    parser.add_argument("--draws", type=at_least(1), default=10_000, help="of noise, crops and masks")
    try:
        options = parser.parse_intermixed_args(arguments)
        if options.docs:
            write_docs()
        else:
            measure(options)
    except (ConfigError, OSError) as error:
        return refuse(error)
    return 0


def measure(options: argparse.Namespace) -> None:
    from studies.fidelity.lab import Sizes  # imports torch

    sizes = Sizes(**{field.name: getattr(options, field.name) for field in fields(Sizes)})
    rows = [word for word in options.what if "=" not in word]
    modules = {name: import_module(f"studies.fidelity.{name}") for name in SUITES if options.suite in (None, name)}
    known = {row for module in modules.values() for row in module.MEASUREMENTS}
    for row in rows:
        require(row in known, f"{row} cannot be measured; choose among {', '.join(sorted(known, key=row_number))}")
    effects = []
    for name, module in modules.items():
        lab = module.make_lab([word for word in options.what if "=" in word], sizes)
        for row, measurement in module.MEASUREMENTS.items():
            if not rows or row in rows:
                start = time.monotonic()
                effects += measurement(lab)
                print(f"{name} {row}: {time.monotonic() - start:.0f} s", file=sys.stderr)
    effects.sort(key=lambda effect: row_number(effect.row))
    settings = describe(options)
    show(effects, settings)
    if options.out:
        write_csv(options.out, effects, settings)


def row_number(row: str) -> int:
    return int(row[1:])


def describe(options: argparse.Namespace) -> str:
    import torch

    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    machine = f"Python {platform.python_version()}, {processor()}, {torch.get_num_threads()} thread(s)"
    sizes = f"{options.seeds} seeds from 1, {options.windows} windows, {options.steps} random steps"
    settings = [word for word in options.what if "=" in word] or ["preset=full"]
    return f"{versions}; {machine}; {sizes}; {' '.join(settings)}"


def processor() -> str:
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


def show(effects: list[Effect], settings: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*COLUMNS, caption=settings)
    for effect in effects:
        table.add_row(*(getattr(effect, column) for column in COLUMNS))
    Console().print(table)


def write_docs() -> None:
    text = LEDGER.read_text()
    before, _, rest = text.partition(START)
    _, end, after = rest.partition(END)
    require(bool(end), f"{LEDGER} has lost its marks {START} and {END}")
    LEDGER.write_text(f"{before}{START}\n{block()}\n{END}{after}")


def block() -> str:
    """The generated part of the ledger."""
    effects, settings = read_csv(EFFECTS)
    return f"Measured with {settings}.\n\n{markdown(effects)}"


if __name__ == "__main__":
    sys.exit(main())
