"""Prints a line with a SHA-256 for each part of a run's newest checkpoint and for each of its CSV files.

python scripts/inspect_run.py RUN

Runs that went the same way print the same digests, also if one of them was interrupted.
"""

import argparse
import sys
from pathlib import Path

from mlr.config import ConfigError


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder")
    options = parser.parse_args(arguments)
    from mlr.training.inspection import inspect

    try:
        for name, digest, note in inspect(options.run):
            print(f"{name:<16} {digest}  {note}")
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
