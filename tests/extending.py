"""Runs the commands of docs/extending.md in the current folder, a copy of the project, in one process.

    python -m tests.extending COMMANDS    # JSON: words of each command; found.json tells what they gave

Each training is stopped and continued in a second folder, where it must end as the first did.
"""

import json
import os
import signal
import sys
from importlib import import_module
from pathlib import Path

import harness.run
from harness.exit_codes import RESUME_ME
from harness.logs import CsvLog
from harness.loop import TrainingLoop
from harness.run_folder import RunFolder, read_manifest
from recipes import train
from tests.test_unchanged_runs import numbers

COMMON = ["device=cpu", "threads=1", "video=false"]
ATARI = ["agent_steps=82", "evaluation.horizon=20"]
SHORT = {
    "train_atari": [*COMMON, *ATARI],
    "train_dmcontrol": [*COMMON, "env_steps=336", "eval_every_env_steps=0"],
    "evaluate": ["--episodes", "1"],
    "report": ["--repeats", "10"],
    "sweep": ["--dry-run", *ATARI],
}
STOP = {"train_atari": 63, "train_dmcontrol": 33}  # agent steps: after the first updates, between two checkpoints


def main() -> None:
    harness.run.draw_run = lambda *_: "not drawn"
    found = []
    for script, *words in json.loads(sys.argv[1]):
        name = Path(script).stem
        words += SHORT[name]
        if name in STOP:
            found.append(trained(name, words, f"again/{len(found)}"))
        else:
            found.append({"name": name, "code": import_module(f"commands.{name}").main(words)})
    Path("found.json").write_text(json.dumps(found))


def trained(name: str, words: list[str], again: str) -> dict:
    before = set(Path("runs").glob("*/*/*/*"))
    code = train(name.removeprefix("train_"), argv=words)
    (folder,) = set(Path("runs").glob("*/*/*/*")) - before
    step = TrainingLoop.step

    def stopped(self):
        if self.position.step == STOP[name]:
            TrainingLoop.step = step
            os.kill(os.getpid(), signal.SIGTERM)
        step(self)

    TrainingLoop.step = stopped
    codes = [train(name.removeprefix("train_"), argv=[*words, f"run_dir={again}"]) for _ in range(2)]
    run = RunFolder(folder)
    return {
        "name": name,
        "code": code,
        "stopped": codes == [RESUME_ME, 0],
        "equal": numbers(folder, {}) == numbers(Path(again), {}),
        "task": read_manifest(folder)["task"],
        "metrics": list(CsvLog(run.metrics).read()[-1]),
        "evaluation": list(CsvLog(run.evaluations).read()[-1]),
    }


if __name__ == "__main__":
    main()
