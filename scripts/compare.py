"""Draws the curves of several Atari runs of one game in a picture and prints their final scores.

python scripts/compare.py results/cpu/boxing/* --out docs/images/boxing.png
"""

import argparse
import sys
from pathlib import Path

from mlr.config import ConfigError
from mlr.training.run_folder import read_config


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders")
    parser.add_argument("--out", type=Path, required=True, help="PNG file")
    options = parser.parse_args(arguments)
    try:
        games = {read_config(run)["game"] for run in options.runs}
        if len(games) != 1:
            raise ConfigError(f"these are runs of several games ({', '.join(sorted(games))}): compare one at a time")
        from mlr.results.curves import draw_comparison

        for line in draw_comparison(options.runs, games.pop(), options.out):
            print(line)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
