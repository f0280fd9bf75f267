"""Measure how far returns move on another physics build or kind of CPU: python -m studies.physics OUT.csv

Plays fixed actions on DMControl tasks and writes the returns. Files of two machines, or of two versions, are
compared with: python -m studies.physics --compare A.csv B.csv
"""

import csv
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from dmcontrol.config import DMControlConfig
from dmcontrol.suite import make_scorer
from dmcontrol.tasks import PAPER_TASKS, task_settings
from harness.command_line import Options
from harness.config import ConfigError
from harness.messages import refuse
from recipes import COMMANDS


def main() -> int:
    parser = Options(__doc__, "python -m studies.physics")
    parser.add_argument("files", type=Path, nargs="+", help="the file to write, or two files to compare")
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--episodes", type=int, default=4, help="of each task")
    parser.add_argument("--tasks", nargs="+", default=PAPER_TASKS, help="by default the paper's six")
    try:
        options = parser.parse_args()
        if len(options.files) != 1 + options.compare:
            raise ConfigError("give one file to write, or --compare and two files")
        if options.compare:
            print(compared(*options.files))
        else:
            write(options.files[0], options.tasks, options.episodes)
    except ConfigError as error:
        return refuse(error)
    return 0


def write(file: Path, tasks: Sequence[str], episodes: int) -> None:
    configs = {task: COMMANDS["dmcontrol"].resolve(task_settings(task)) for task in tasks}
    with file.open("w", newline="", buffering=1) as stream:
        rows = csv.writer(stream)
        rows.writerow(("task", "episode", "return"))
        for task, config in configs.items():
            rows.writerows((task, episode, played(config, episode)) for episode in range(episodes))


def played(config: DMControlConfig, episode: int) -> float:
    """Return of noise in even episodes, and of slow waves, which keep bodies in contact, in odd ones."""
    generator = np.random.default_rng(episode)
    total, over, step = 0.0, False, 0
    with closing(make_scorer(config, 1, episode)) as environment:
        size = environment.action_space.shape
        rates, phases = generator.uniform(0.02, 0.5, size), generator.uniform(0, 2 * np.pi, size)
        environment.reset()
        while not over:
            # Sums and products alone: a sine would be of this CPU's library, and the actions must not differ.
            wave = 4 * np.abs((step * rates + phases) % 1 - 0.5) - 1
            action = generator.uniform(-1, 1, size) if episode % 2 == 0 else wave
            _, reward, terminated, truncated, _ = environment.step(action.astype(np.float32))
            total, step, over = total + reward, step + 1, terminated or truncated
    return total


def compared(first: Path, second: Path) -> str:
    """A line per task: episodes, how many have another return, and the largest difference."""
    returns = [{(row["task"], row["episode"]): float(row["return"]) for row in read(file)} for file in (first, second)]
    lines = [f"{'task':<28}{'episodes':>9}{'differ':>8}{'largest difference':>20}{'largest return':>16}"]
    for task in dict.fromkeys(task for task, _ in returns[0]):
        keys = [key for key in returns[0] if key[0] == task]
        differences = [abs(returns[0][key] - returns[1][key]) for key in keys]
        highest = max(returns[0][key] for key in keys)
        changed = sum(map(bool, differences))
        lines.append(f"{task:<28}{len(keys):>9}{changed:>8}{max(differences):>20.3g}{highest:>16.1f}")
    return "\n".join(lines)


def read(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


if __name__ == "__main__":
    sys.exit(main())
