"""Evaluation: episodes on environments of their own, stepped together, from a snapshot of the weights.

The rows of an evaluation depend on the snapshot, its index and the seed alone, so a resumed run writes the same ones.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import gymnasium
import numpy as np
from rich.console import Console

from harness.background import Background
from harness.config import ConfigError, as_dict, require
from harness.environments import Environments
from harness.episodes import own_columns, taken
from harness.errors import NotFinite, WorkerLost
from harness.logs import CsvLog
from harness.recipe import Recipe
from harness.report.scores import score_columns
from harness.run_folder import RunFolder, read_manifest
from harness.stop import StopRequested

Player = Callable[[np.ndarray, np.ndarray], Sequence]  # see play_episodes
Watch = Callable[[int], None]  # told after every step how many episodes are over; may raise StopRequested
Film = Callable[[gymnasium.Env], None]
# weights, index, video file, watch, worker processes -> a row per episode, with the way it was played under PLAYED;
# may raise WorkerLost
Evaluate = Callable[[Path, int, Path | None, Watch, int], list[dict]]
POLL_SECONDS = 0.2  # between looks at what is waited for


@dataclass
class Episode:
    score: float = 0.0  # sum of raw rewards
    agent_steps: int = 0
    actions: list = field(default_factory=list)
    columns: dict[str, float] = field(default_factory=dict)  # further results that the environment reports at the end


def play_episodes(
    player: Player, environments: Environments, episodes: int, film: Film | None, watch: Watch
) -> list[Episode]:
    """Plays `episodes` whole episodes, as many at a time as `environments` has slots, in lockstep.

    player(observations uint8 [slots, ...], first bool [slots]) gives one action per slot. `first` marks the slots
    whose observation begins an episode. The batch keeps its size when episodes end, so that numerics do not depend on
    who is still playing. `film` is shown the first episode before every step.
    """
    results = [Episode() for _ in range(episodes)]
    slots = len(environments.observations)
    for start in range(0, episodes, slots):
        group = results[start : start + slots]
        environments.observations[:] = 0  # empty slots show zeros
        environments.start({slot: start + slot for slot in range(len(group))})
        _play_together(player, environments, group, film if start == 0 else None, watch, start)
    watch(episodes)
    return results


def _play_together(
    player: Player, environments: Environments, episodes: list[Episode], film: Film | None, watch: Watch, finished: int
) -> None:
    """Plays the episodes that were started, after `finished` earlier ones."""
    playing = set(range(len(episodes)))
    first = np.arange(len(environments.observations)) < len(episodes)
    while playing:
        if film is not None and 0 in playing:
            film(environments.filmed)
        watch(finished + len(episodes) - len(playing))
        actions = player(environments.observations, first)
        first = np.zeros_like(first)
        outcomes = environments.step({slot: actions[slot] for slot in sorted(playing)})
        for slot, outcome in outcomes.items():
            episodes[slot].score += outcome.reward
            episodes[slot].agent_steps += 1
            episodes[slot].actions.append(np.asarray(actions[slot]).tolist())
            if outcome.over:
                episodes[slot].columns = outcome.columns
                playing.remove(slot)


def episode_rows(episodes: list[Episode], columns: Callable[[float], dict[str, float]]) -> list[dict]:
    """A row per episode. columns: a score -> the suite's further columns of it.

    Raises ConfigError for an environment that does not report the same columns at the end of every episode.
    """
    rows = []
    for number, episode in enumerate(episodes):
        first, names = list(episodes[0].columns), list(episode.columns)
        require(
            names == first,
            f'info["columns"] of the environment holds {names} at the end of episode {number} and {first} at that of '
            "episode 0: report the same ones after every episode",
        )
        row = {"episode": number, "score": episode.score, **columns(episode.score)}
        rows.append(joined(row | {"episode_agent_steps": episode.agent_steps}, episode.columns))
    return rows


def joined(row: dict, further: dict) -> dict:
    """Raises ConfigError for a name that both have."""
    taken = sorted(row.keys() & further.keys())
    require(not taken, f'info["columns"] of the environment holds {taken}, which every row has: rename it')
    return row | further


class Evaluations:
    """evaluations.csv: a row per episode, which says itself what run it is of. episodes.csv: how it was played.

    An evaluation whose rows are not all there is pending. In the background one at a time goes on beside the training,
    until `close`.
    """

    def __init__(self, config, folder: RunFolder, evaluate: Evaluate, units, console: Console, keep_until: int):
        self._steps = evaluation_steps(config.agent_steps, config.eval_every, config.eval_first)
        self._settings = config.evaluation
        self._episodes = config.evaluation.episodes
        self._video = config.video
        self._columns = score_columns(as_dict(config), read_manifest(folder.path))
        self._folder, self._evaluate, self._units, self._console = folder, evaluate, units, console
        self._log = CsvLog(folder.evaluations, keep_until)
        self._played = CsvLog(folder.episodes, keep_until)
        counts = Counter(int(row["agent_steps"]) for row in self._log.read())
        self._done = {step for step, count in counts.items() if count == self._episodes}
        for log in (self._log, self._played):
            log.keep(row for row in log.read() if int(row["agent_steps"]) in self._done)
        self._background: Background | None = None  # from the first evaluation on
        self.last_score: float | None = None

    def missing(self) -> list[int]:
        """Agent steps of the evaluations that have no rows yet."""
        return [step for step in self._steps if step not in self._done]

    def due(self, step: int) -> bool:
        return step in self._steps

    def finish_pending(self, step: int, watch: Watch) -> bool:
        """Runs every evaluation up to `step` that has no rows yet. False if a stop request ended it early.

        In the background they are only waited for after the last step: what has come is written, and the next started.
        """
        try:
            for index, due in enumerate(self._steps):
                if due <= step and due not in self._done:
                    played = self._play(index, due, watch, wait=step == self._steps[-1])
                    if played is None:
                        break
                    self._write(index, due, *played)
        except StopRequested:
            return False
        return True

    def close(self) -> None:
        """Gives up the evaluation that is under way in the background; it stays pending."""
        if self._background is not None:
            self._background.close()
            self._background = None

    def _play(self, index: int, due: int, watch: Watch, wait: bool) -> tuple[list[dict], float] | None:
        """The rows of an evaluation and the seconds that it took; None if it is still under way in the background."""
        video = self._folder.video_at(due) if self._video and due == self._steps[-1] else None
        weights, settings = self._folder.weights_at(due), self._settings
        if self._background is None or not self._background.busy:
            if not weights.is_file():
                raise ConfigError(f"{weights} is missing: the evaluation after agent step {due} cannot be made up for")
            where = " in the background" if settings.background else ""
            self._console.print(f"evaluating agent step {due}{where}: {self._episodes} episodes")
        try:
            if settings.background:
                return self._play_in_background(weights, index, video, watch, wait)
            return timed(self._evaluate, weights, index, video, watch, settings.workers)
        except WorkerLost as error:
            self.close()
            self._console.print(played_again(error))
            return timed(self._evaluate, weights, index, video, watch, 0)

    def _play_in_background(
        self, weights: Path, index: int, video: Path | None, watch: Watch, wait: bool
    ) -> tuple[list[dict], float] | None:
        if self._background is None:
            self._background = Background(self._evaluate, self._settings.workers, self._settings.timeout_seconds)
        if not self._background.busy:
            self._background.start(weights, index, video)
        while True:
            rows = self._background.rows(POLL_SECONDS if wait else 0)
            watch(self._background.finished)
            if rows is not None:
                return rows, self._background.seconds
            if not wait:
                return None

    def _write(self, index: int, due: int, rows: list[dict], seconds: float) -> None:
        played = taken(due, rows)
        for name in dict.fromkeys(name for row in rows for name, value in row.items() if not math.isfinite(value)):
            raise NotFinite(f"a {name} of the evaluation after agent step {due} is a NaN or an infinity")
        constant = {**self._columns, "evaluation": index, **self._units(due)}
        rows = [joined(constant, row) for row in rows]
        changed = sorted(rows[0].keys() ^ set(self._log.columns)) if self._log.columns else []
        require(not changed, f'{self._log.path} and info["columns"] of the environment differ in {changed}: keep them')
        self._console.print(f"evaluation after agent step {due}: {speed(rows, seconds, self._units)}")
        self._played.append(*played)  # first: rows without a score are dropped at the next start
        self._log.append(*rows)
        self._done.add(due)
        self.last_score = float(np.mean([row["score"] for row in rows]))


def timed(evaluate: Callable[..., list[dict]], *arguments) -> tuple[list[dict], float]:
    """The rows of an evaluation, and the seconds that it took."""
    start = time.perf_counter()
    return evaluate(*arguments), time.perf_counter() - start


def played_again(error: WorkerLost) -> str:
    return f"{error}: the evaluation is played again from its beginning, without workers"


def speed(rows: list[dict], seconds: float, units: Callable[[int], dict[str, int]]) -> str:
    """Duration of the episodes of `rows`, and frames per second; units: agent steps -> frames and others."""
    frames = units(sum(row["episode_agent_steps"] for row in rows))["frames"]
    return f"{len(rows)} episodes in {seconds:.1f} s, {frames / seconds:,.0f} frames/s"


def summary(config, recipe: Recipe, rows: list[dict]) -> str:
    scores = np.array([float(row["score"]) for row in rows])
    own = {name: float(np.mean([float(row[name]) for row in rows])) for name in own_columns(rows[0])}
    means = recipe.suite.columns(config, scores.mean()) | own
    further = [f", {name.replace('_', '-')} {value:.3f}" for name, value in means.items()]
    return f"score  {scores.mean():.1f} +- {scores.std():.1f} over {len(scores)} episodes{''.join(further)}"


def is_finished(config, folder: RunFolder) -> bool:
    """Tells whether the evaluation after the last step has all its rows."""
    rows = [row for row in CsvLog(folder.evaluations).read() if row["agent_steps"] == str(config.agent_steps)]
    return len(rows) == config.evaluation.episodes


def evaluation_steps(agent_steps: int, every: int, first: int = 0) -> list[int]:
    """Numbers of agent steps after which the weights are evaluated: `first`, each `every` later ones, and the end.

    `every` = 0: the end alone.
    """
    return [*(range(first, agent_steps, every) if every else ()), agent_steps]
