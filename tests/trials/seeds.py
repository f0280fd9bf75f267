"""Trial seeds: equal seeds end equal, different ones differ."""

from collections.abc import Iterator
from pathlib import Path
from random import Random

from tests.trials.runs import SUITES, Case, Run


def seeds(count: int, random: Random, scratch: Path) -> Iterator[Case]:
    for number in range(0, count, 2):
        suite = SUITES[number // 2 % len(SUITES)]
        seed = random.randrange(10**6)
        runs = [Run(scratch / f"{number}-{i}", suite, f"seed={seed + (i == 2)}") for i in range(3)]
        codes = [run.finish() for run in runs]
        yield Case("equal", runs[1].differences(runs[0]) if codes == [0, 0, 0] else f"exits {codes}")
        names = ("weights", "replay", "environment", "metrics.csv")
        apart = runs[2].differences(runs[0]) if codes == [0, 0, 0] else ""
        yield Case("different", " ".join(f"{name} is equal" for name in names if f"{name} differs" not in apart))
