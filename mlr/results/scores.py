"""Published scores, and the scale on which games are compared."""

import csv
from functools import cache
from pathlib import Path

PUBLISHED = Path(__file__).parents[2] / "results" / "published"


def read_table(name: str) -> list[dict[str, str]]:
    """The rows of `results/published/<name>.csv`, as text."""
    with open(PUBLISHED / f"{name}.csv", newline="") as file:
        return list(csv.DictReader(file))


@cache
def published(benchmark: str) -> dict[str, dict[str, float]]:
    """Mean score by row and method; read-only, sources are in `results/published/README.md`.

    "atari": rows are games, and `human` and `random` are among the methods. "dmcontrol": rows are tasks with the
    number of environment steps, such as finger_spin_100k; a method without a published score has no entry.
    Raises ValueError for another benchmark.
    """
    if benchmark == "atari":
        rows = read_table("atari100k")
        return {row.pop("game"): {method: float(score) for method, score in row.items()} for row in rows}
    if benchmark == "dmcontrol":
        table: dict[str, dict[str, float]] = {}
        for row in read_table("dmcontrol"):
            scores = table.setdefault(f"{row['domain']}_{row['task']}_{row['benchmark']}", {})
            if row["mean"]:
                scores[row["method"]] = float(row["mean"])
        return table
    raise ValueError(f"no published scores of '{benchmark}': choose atari or dmcontrol")


def human_normalised(game: str, score: float) -> float:
    """0 for a random player's raw game score, 1 for a human's. Raises KeyError for a game without both scores."""
    constants = published("atari")[game]
    return (score - constants["random"]) / (constants["human"] - constants["random"])
