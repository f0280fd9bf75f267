"""Evaluates the newest weights of a run.

python scripts/evaluate.py RUN --episodes 100 --video
"""

import argparse
import sys
from pathlib import Path

from mlr.config import ConfigError
from mlr.training.run_folder import RunFolder, read_config


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the episodes' starts and of what exploration there is")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--video", action="store_true", help="record the first episode")
    parser.add_argument("--csv", type=Path, help="write one row per episode to this file")
    options = parser.parse_args(arguments)
    try:
        if options.episodes < 1:
            raise ConfigError(f"--episodes {options.episodes} must be at least 1")
        name = read_config(options.run).get("benchmark")
        RunFolder(options.run).newest_weights()  # refused before torch is imported
        benchmark = load_benchmark(name)
        if benchmark is None:
            raise ConfigError(f"{options.run} is a run of an unknown benchmark, {name}")
        from mlr.training.run import evaluate_run

        evaluate_run(options.run, benchmark, options.episodes, options.seed, options.device, options.video, options.csv)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def load_benchmark(name: str):
    if name == "atari":
        from atari.training import ATARI as benchmark
    elif name == "dmcontrol":
        from dmcontrol.training import DMCONTROL as benchmark
    else:
        return None
    return benchmark


if __name__ == "__main__":
    sys.exit(main())
