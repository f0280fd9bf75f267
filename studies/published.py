"""Compute results/published/intervals.csv and spreads.csv: python -m studies.published FOLDER

FOLDER holds single runs of published methods, which are not part of this project: atari100k_runs.csv (method, game,
run, score), dmcontrol_runs.csv (method, task, env_steps, run, score) and methods.csv (source, commit, file, licence,
protocol, comparable, differs). results/published/README.md says where they are from.
"""

import csv
import sys
from pathlib import Path
from statistics import mean, stdev

from harness.command_line import Options
from harness.config import ConfigError
from harness.messages import refuse
from harness.report.methods import read_scores
from harness.report.published import PUBLISHED
from harness.report.statistics import aggregate
from recipes import SUITE_SCORES

FILES = {"atari100k": "atari", "dmcontrol": "dmcontrol"}  # suite of FOLDER's files


def main() -> int:
    parser = Options(__doc__, "python -m studies.published")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repeats", type=int, default=2000, help="resamples of each interval")
    try:
        options = parser.parse_args()
        intervals, spreads = compute(options.folder, options.repeats)
    except (ConfigError, OSError) as error:
        return refuse(error)
    write(PUBLISHED / "intervals.csv", intervals)
    write(PUBLISHED / "spreads.csv", spreads)
    return 0


def compute(folder: Path, repeats: int) -> tuple[list[dict], list[dict]]:
    """Rows of intervals.csv and of spreads.csv."""
    intervals, spreads = [], []
    for name, suite in FILES.items():
        with (folder / "methods.csv").open(newline="") as file:
            about = {row["method"]: row for row in csv.DictReader(file) if row["benchmark"] == name}
        for scores in read_scores([folder / f"{name}_runs.csv"], SUITE_SCORES):
            names = {"suite": suite, "budget": scores.budget, "method": scores.method}
            row, found = about[scores.method], aggregate(scores.normalised(), repeats)
            ends = {
                f"{metric}{end}": f"{value:.4f}"
                for metric, interval in found.items()
                for end, value in zip(("", "_low", "_high"), interval, strict=True)
            }
            source = f"{row['repository']} at {row['commit'][:7]}, {row['file']}; {row['paper']}"
            kept = {key: row[key] for key in ("comparable", "differs", "protocol", "licence")}
            intervals.append({**names, "label": row["label"], **ends, **kept, "source": source})
            spreads += [
                {**names, "task": task, "runs": len(runs), "mean": f"{mean(runs):.4f}", "std": f"{stdev(runs):.4f}"}
                for task, runs in scores.raw.items()
            ]
    return intervals, spreads


def write(path: Path, rows: list[dict]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    sys.exit(main())
