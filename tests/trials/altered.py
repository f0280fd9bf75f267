"""Trial altered: one score, action or seed of a run is changed; playing its episodes again must find it."""

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from random import Random

from harness.episodes import checksum, pack, unpack
from harness.logs import CsvLog
from harness.run_folder import RunFolder
from harness.verification import verify
from harness.worker import SPAWN, end_with_parent
from recipes import load_config, load_suite
from tests.trials.runs import Case, references


def altered(count: int, random: Random, scratch: Path) -> Iterator[Case]:
    """Each case has the table and the episodes of one evaluation; they must be found as they are before the change."""
    reference = references(scratch.parent)
    folder, whole = RunFolder(scratch / "run"), set()
    folder.path.mkdir()
    with ProcessPoolExecutor(1, mp_context=SPAWN, initializer=end_with_parent) as pool:
        for _ in range(count):
            suite = random.choice(list(reference))
            original = RunFolder(reference[suite][0].folder)
            step = random.choice([row["agent_steps"] for row in CsvLog(original.evaluations).read()])
            for file in (original.config, original.manifest, original.evaluations, original.episodes):
                shutil.copy(file, folder.path)
            for file in (folder.evaluations, folder.episodes):
                CsvLog(file).keep(row for row in CsvLog(file).read() if row["agent_steps"] == step)
            config = load_config(folder.path)
            check = partial(verify, folder.evaluations, config, load_suite(config), pool)
            before = [] if (suite, step) in whole else check().problems
            whole.add((suite, step))
            name = random.choice(list(CHANGES))
            where = CHANGES[name](random, folder)
            after = check().problems
            problem = "" if any(where in line for line in after) else f"{where} is not found: {after}"
            yield Case(name, problem or "; ".join(before))


def change_row(random: Random, file: Path, change: Callable[[dict], None]) -> str:
    """Changes one row of a CSV; returns the place that must be named."""
    rows = CsvLog(file).read()
    row = random.choice(rows)
    where = f"agent step {row['agent_steps']}, episode {row['episode']}:"
    change(row)
    CsvLog(file).keep(rows)
    return where


def score(random: Random, folder: RunFolder) -> str:
    """Another score, at times by its last digit alone, with all columns that follow from it."""

    def change(row: dict) -> None:
        value = float(row["score"])
        step = random.choice((1.0, -1.0, 0.5, 1e-9 * max(1.0, abs(value))))
        config = load_config(folder.path)
        row |= {"score": value + step, **load_suite(config).columns(config, value + step)}

    return change_row(random, folder.evaluations, change)


def score_alone(random: Random, folder: RunFolder) -> str:
    return change_row(random, folder.evaluations, lambda row: row.update(score=float(row["score"]) + 1))


def action(random: Random, folder: RunFolder) -> str:
    """Another action at one step, which may have the same effect."""

    def change(row: dict) -> None:
        actions = unpack(row["actions"])
        step = random.randrange(len(actions))
        if actions.ndim == 1:
            actions[step] = random.choice([other for other in range(6) if other != actions[step]])
        else:
            actions[step] = -actions[step] if random.random() < 0.5 else actions[step] * 0.999
        row["actions"] = pack(actions.tolist())

    return change_row(random, folder.episodes, change)


def action_count(random: Random, folder: RunFolder) -> str:
    """An action too few or too many, with the checksum of what is there."""

    def change(row: dict) -> None:
        actions = unpack(row["actions"]).tolist()
        row["actions"] = pack(random.choice((actions[:-1], [*actions, actions[-1]])))
        row["sha256"] = checksum(row)

    return change_row(random, folder.episodes, change)


def action_bit(random: Random, folder: RunFolder) -> str:
    def change(row: dict) -> None:
        text, place = row["actions"], random.randrange(len(row["actions"]))
        other = random.choice([letter for letter in "0123456789abcdef" if letter != text[place]])
        row["actions"] = text[:place] + other + text[place + 1 :]

    return change_row(random, folder.episodes, change)


def environment_seed(random: Random, folder: RunFolder) -> str:
    """Another seed with its checksum; on Atari one of thirty gives the same start."""

    def change(row: dict) -> None:
        row["environment_seed"] = random.randrange(2**62)
        row["sha256"] = checksum(row)

    return change_row(random, folder.episodes, change)


def table_seed(random: Random, folder: RunFolder) -> str:
    return change_row(random, folder.evaluations, lambda row: row.update(seed=random.randrange(10, 10**6)))


def evaluation(random: Random, folder: RunFolder) -> str:
    return change_row(random, folder.evaluations, lambda row: row.update(evaluation=random.randrange(10, 99)))


CHANGES = {
    "score": score,
    "score alone": score_alone,
    "action": action,
    "number of actions": action_count,
    "letter of the actions": action_bit,
    "seed of the environment": environment_seed,
    "seed in the table": table_seed,
    "number of the evaluation": evaluation,
}
