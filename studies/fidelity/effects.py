"""A measured effect, and the tables of many as CSV and Markdown."""

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import mean
from typing import SupportsFloat


@dataclass(frozen=True)
class Effect:
    """One quantity under both settings, or how the two compare; what does not apply is empty."""

    row: str
    suite: str
    quantity: str
    released: str = ""
    paper: str = ""
    compared: str = ""
    sample: str = ""


COLUMNS = tuple(field.name for field in fields(Effect))


def number(*values: SupportsFloat) -> str:
    """The mean, and the range where there are several."""
    values = [float(value) for value in values]
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return f"{mean(values):.3g}" + (f" ({low} to {high})" if low != high else "")


def write_csv(path: Path, effects: Sequence[Effect], settings: str) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*COLUMNS, "settings"], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**asdict(effect), "settings": settings} for effect in effects)


def read_csv(path: Path) -> tuple[list[Effect], str]:
    """The effects of a file, and the settings that they were measured with."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [Effect(*(row[name] for name in COLUMNS)) for row in rows], rows[0]["settings"]


def markdown(effects: Sequence[Effect]) -> str:
    lines = [COLUMNS, ["---"] * len(COLUMNS), *(asdict(effect).values() for effect in effects)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
