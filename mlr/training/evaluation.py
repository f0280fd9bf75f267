"""Evaluation: episodes on environments of their own, stepped together, from a snapshot of the weights.

The rows of an evaluation depend on the snapshot, its index and the seed alone, so a resumed run writes the same ones.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import numpy as np
from rich.console import Console

from mlr.config import ConfigError
from mlr.results.scores import score_columns
from mlr.training.errors import NotFinite
from mlr.training.loggers import CsvLog
from mlr.training.run_folder import RunFolder, read_manifest
from mlr.training.stop import StopRequested

Act = Callable[[np.ndarray], Sequence]
Watch = Callable[[int], None]  # told after every step how many episodes are over; may raise StopRequested
Film = Callable[[gymnasium.Env], None]
Evaluate = Callable[[Path, int, Path | None, Watch], list[dict]]  # weights, index, video file -> a row per episode


@dataclass
class Episode:
    score: float = 0.0  # sum of raw rewards
    agent_steps: int = 0


def play_episodes(
    act: Act,
    make_environment: Callable[[int], gymnasium.Env],
    episodes: int,
    parallel: int,
    film: Film | None,
    watch: Watch,
) -> list[Episode]:
    """Plays `episodes` whole episodes, the i-th in make_environment(i), `parallel` at a time in lockstep.

    act: uint8 [parallel, ...] -> one action per row. The batch keeps its size when episodes end, so that numerics do
    not depend on who is still playing. `film` is shown the first episode before every step.
    """
    results = [Episode() for _ in range(episodes)]
    for start in range(0, episodes, parallel):
        group = results[start : start + parallel]
        with ExitStack() as stack:
            environments = [stack.enter_context(closing(make_environment(start + i))) for i in range(len(group))]
            _play_together(act, environments, group, parallel, film if start == 0 else None, watch, start)
    watch(episodes)
    return results


def _play_together(
    act: Act,
    environments: list[gymnasium.Env],
    episodes: list[Episode],
    parallel: int,
    film: Film | None,
    watch: Watch,
    finished: int,
) -> None:
    """Plays an episode in each environment, in lockstep, after `finished` earlier ones."""
    first = [environment.reset()[0] for environment in environments]
    batch = np.zeros((parallel, *first[0].shape), first[0].dtype)
    batch[: len(first)] = first
    playing = set(range(len(first)))
    while playing:
        if film is not None and 0 in playing:
            film(environments[0])
        watch(finished + len(first) - len(playing))
        actions = act(batch)
        for i in sorted(playing):
            observation, reward, terminated, truncated, _ = environments[i].step(actions[i])
            batch[i] = observation
            episodes[i].score += float(reward)
            episodes[i].agent_steps += 1
            if terminated or truncated:
                playing.remove(i)


class Evaluations:
    """evaluations.csv: a row per episode, which says itself what run it is of.

    An evaluation whose rows are not all there is pending.
    """

    def __init__(self, config, folder: RunFolder, evaluate: Evaluate, units, console: Console, keep_until: int):
        self._steps = evaluation_steps(config.agent_steps, config.eval_every)
        self._episodes = config.evaluation.episodes
        self._video = config.video
        self._columns = score_columns(dataclasses.asdict(config), read_manifest(folder.path))
        self._folder, self._evaluate, self._units, self._console = folder, evaluate, units, console
        self._log = CsvLog(folder.evaluations, keep_until)
        counts = Counter(int(row["agent_steps"]) for row in self._log.read())
        self._done = {step for step, count in counts.items() if count == self._episodes}
        self._log.keep(row for row in self._log.read() if int(row["agent_steps"]) in self._done)
        self.last_score: float | None = None

    def missing(self) -> list[int]:
        """Agent steps of the evaluations that have no rows yet."""
        return [step for step in self._steps if step not in self._done]

    def due(self, step: int) -> bool:
        return step in self._steps

    def finish_pending(self, step: int, watch: Watch) -> bool:
        """Runs every evaluation up to `step` that has no rows yet. False if a stop request ended it early."""
        for index, due in enumerate(self._steps):
            if due > step:
                break
            if due in self._done:
                continue
            self._console.print(f"evaluating agent step {due}: {self._episodes} episodes")
            video = self._folder.media / f"episode_{due:09d}.mp4" if self._video and due == self._steps[-1] else None
            weights = self._folder.weights_at(due)
            if not weights.is_file():
                raise ConfigError(f"{weights} is missing: the evaluation after agent step {due} cannot be made up for")
            try:
                rows = self._evaluate(weights, index, video, watch)
            except StopRequested:
                return False
            if not all(math.isfinite(row["score"]) for row in rows):
                raise NotFinite(f"a score of the evaluation after agent step {due} is a NaN or an infinity")
            self._log.append(*({**self._columns, "evaluation": index, **self._units(due), **row} for row in rows))
            self._done.add(due)
            self.last_score = float(np.mean([row["score"] for row in rows]))
        return True


def is_finished(config, folder: RunFolder) -> bool:
    """Whether the evaluation after the last step has all its rows."""
    rows = [row for row in CsvLog(folder.evaluations).read() if row["agent_steps"] == str(config.agent_steps)]
    return len(rows) == config.evaluation.episodes


def evaluation_steps(agent_steps: int, every: int) -> list[int]:
    """After how many agent steps the weights are evaluated: 0 and each multiple of `every`, and the end.

    `every` = 0: the end alone.
    """
    regular = range(0, agent_steps, every) if every else ()
    return [*regular, agent_steps]
