"""Prints a line with a SHA-256 for each part of a run's newest checkpoint and for each of its CSV files.

mlr inspect RUN

Runs that went the same way print the same digests, also if one of them was interrupted.
"""

from pathlib import Path

from harness.command_line import Options, refusing
from harness.config import ConfigError


@refusing(ConfigError)
def main(arguments: list[str] | None = None) -> int:
    parser = Options(__doc__)
    parser.add_argument("run", type=Path, help="run folder")
    options = parser.parse_args(arguments)
    from harness.inspection import inspect  # imports torch

    for name, digest, note in inspect(options.run):
        print(f"{name:<16} {digest}  {note}")
    return 0
