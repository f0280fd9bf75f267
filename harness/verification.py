"""Plays stored evaluation episodes again, in processes, and compares each with its row of the table.

Nothing here imports torch or needs a GPU or weights. Meta-world and environments that render need OpenGL.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium

from harness.config import ConfigError
from harness.episodes import checksum, own_columns, unpack
from harness.errors import NotFinite
from harness.logs import CsvLog, is_whole
from harness.recipe import Suite
from harness.report.words import plural
from harness.run_folder import RunFolder, cpu_name, episodes_beside, read_manifest
from harness.seeding import derive_seed

Row = dict[str, str]


@dataclass
class Verification:
    """Result for a table of evaluation episodes."""

    table: Path
    rows: int
    needs: str = ""  # versions and files that decide the scores: then, and here where they differ
    bound: float = 0.0  # allowed difference of a score
    largest: float = 0.0  # largest difference of a score
    played: int = 0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        if not self.played:
            return f"{self.table}: no episodes stored"
        apart = f"scores at most {self.largest:.3g} apart, {self.bound:g} allowed"
        exact = apart if self.bound else "to the last digit"
        result = plural(len(self.problems), "problem") if self.problems else f"as in the table, {exact}"
        return f"{self.table}: {self.played} of {self.rows} episodes played again, {result}; made with {self.needs}"


def folder_of(table: Path) -> RunFolder:
    """Run folder whose table this is, or the folder beside a table of its own."""
    folder = RunFolder(table.parent)
    own = table.name == folder.evaluations.name and folder.config.is_file()
    return folder if own else RunFolder(episodes_beside(table))


def verify(table: Path, config: Any, suite: Suite, pool: Executor) -> Verification:
    """Plays the stored episodes of `table`, whose configuration and suite are given. Raises ConfigError."""
    folder = folder_of(table)
    rows, stored = by_episode(table), by_episode(folder.episodes)
    bound = suite.score_bound(config.task)
    here = suite.simulator(config) | ({"cpu": cpu_name()} if bound else {})
    needs, is_same = made_with(here, read_manifest(folder.path))
    found = Verification(table, len(rows), needs, bound=0.0 if is_same else bound, played=len(stored))
    make = suite.make_scorer or partial(suite.make_environment, training=False)
    outcomes = {
        key: pool.submit(play_again, partial(make, config), row["environment_seed"], key[1], row["actions"])
        for key, row in stored.items()
    }
    evaluations = {step for step, _ in stored}
    for key in sorted(rows.keys() | stored.keys()):
        where = f"agent step {key[0]}, episode {key[1]}"
        if key not in rows:
            found.problems.append(f"{where}: has no row in the table")
        elif key in stored:
            outcome = outcomes[key].result()
            lines = [outcome] if isinstance(outcome, str) else [*compare(found, rows[key], outcome)]
            lines += describe_changes(config, suite, rows[key], stored[key])
            found.problems += [f"{where}: {line}" for line in lines]
        elif key[0] in evaluations:
            found.problems.append(f"{where}: is not stored")
    return found


def by_episode(path: Path) -> dict[tuple[int, int], Row]:
    """Rows of a CSV by agent steps and episode. Raises ConfigError for a damaged one."""
    found: dict[tuple[int, int], Row] = {}
    for line, row in enumerate(CsvLog(path).read(), start=2):
        try:
            key = int(row["agent_steps"]), int(row["episode"])
        except (LookupError, TypeError, ValueError) as error:
            raise ConfigError(f"{path}, line {line}: it names no agent step and episode") from error
        if key in found or not is_whole(row):
            raise ConfigError(f"{path}, line {line}: it is damaged, or there twice")
        found[key] = row
    return found


def made_with(here: dict[str, str], manifest: dict) -> tuple[str, bool]:
    """Simulator and kind of CPU of every start of a run as a line, and whether they are those of this machine."""
    starts = [manifest | start.get("versions", {}) | {"cpu": start.get("cpu")} for start in manifest["starts"]]
    parts, is_same = [], True
    for name, value in here.items():
        then = list(dict.fromkeys(str(start.get(name)) for start in starts))
        parts.append(f"{name} {' and '.join(then)}" + ("" if then == [value] else f" (here {value})"))
        is_same &= then == [value]
    return ", ".join(parts), is_same


def play_again(make_environment: Callable[[int, int], gymnasium.Env], seed: str, episode: int, text: str) -> dict | str:
    """Columns of the episode in the table, or a line on why it cannot have been played so."""
    try:
        actions, score, step, over, info = unpack(text), 0.0, 0, False, {}
        with closing(make_environment(int(seed), episode)) as environment:
            environment.reset()
            while step < len(actions) and not over:
                action = actions[step] if actions.ndim > 1 else actions[step].item()
                if not environment.action_space.contains(action):
                    return f"its action {step} is not in {environment.action_space}"
                _, reward, terminated, truncated, info = environment.step(action)
                score, step, over = score + float(reward), step + 1, bool(terminated or truncated)
    except ConfigError:
        raise
    except (NotFinite, ValueError) as error:
        return str(error)
    if not over or step < len(actions):
        return f"it has {len(actions)} actions and is {f'over after {step}' if over else 'not over after them'}"
    columns = {name: float(value) for name, value in info.get("columns", {}).items()}
    return {"score": score, "episode_agent_steps": step, **columns}


def compare(found: Verification, row: Row, outcome: dict) -> Iterator[str]:
    """A line for each result that differs from the row."""
    names = {*outcome, *own_columns(row)}
    for name in sorted(names):
        there, here = number(row.get(name)), outcome.get(name)
        if there == here:
            continue
        if name == "score" and there is not None and abs(there - here) <= found.bound:
            found.largest = max(found.largest, abs(there - here))
        else:
            yield f"{name} is {row.get(name)} in the table and {here} when it is played again"


def describe_changes(config: Any, suite: Suite, row: Row, stored: Row) -> Iterator[str]:
    """A line for each value of a row, or of its stored episode, that does not follow from the others."""
    seed, score = row.get("evaluation_seed") or row.get("seed"), number(row.get("score"))
    expected = {"task": config.task, **suite.units(config, int(row["agent_steps"]))}
    expected |= {} if score is None else suite.columns(config, score)
    for name, value in expected.items():
        if row.get(name) != str(value):
            yield f"{name} is {row.get(name)} in the table, not {value}"
    if seed != str(config.seed):
        yield f"the seed is {seed} in the table, not {config.seed}"
    index = number(row.get("evaluation", "0"))
    if index is None or stored["environment_seed"] != str(derive_seed(config.seed, "evaluation", int(index))):
        yield "the seed of its environment is not that of the run and the evaluation"
    if stored["sha256"] != checksum(stored):
        yield "its stored actions or seed were changed"


def number(text: str | None) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None
