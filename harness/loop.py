"""The training loop, one for both benchmarks: act, start the updates, step the environment, store."""

import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.console import Console

from harness.checkpoint import Checkpoints, require_finite
from harness.clock import Clock
from harness.errors import CheckpointError, Miscounted, NotFinite
from harness.evaluation import Evaluate, Evaluations
from harness.exit_codes import DONE, RESUME_ME
from harness.logs import CsvLog
from harness.means import MetricMeans
from harness.progress import RunProgress
from harness.run_folder import RunFolder, config_hash
from harness.schedule import Schedule
from harness.stop import StopRequest
from harness.trackers import tracked


@dataclass
class Parts:
    """What a benchmark hands to the loop. Agent, environment and replay have state() and load_state(state)."""

    agent: Any  # act(observation, step, first) -> action; update(replay, step, kind) -> metrics; save_weights(path)
    environment: Any  # a Gymnasium environment whose info holds raw_reward
    replay: Any  # begin_step(); store(observation, action, reward, terminated, truncated, next_observation, info); rows
    schedule: Schedule
    evaluate: Evaluate
    units: Callable[[int], dict[str, int]]  # agent steps -> agent_steps, env_steps, frames
    milestones: list[int]  # agent steps whose scores the paper's tables have, and the last one


@dataclass
class Position:
    """Where a run is: what the loop itself must remember."""

    step: int = 0  # agent steps done
    updates: int = 0
    episodes: int = 0
    observation: np.ndarray | None = None
    first: bool = True  # whether the observation begins an episode
    episode_return: float = 0.0  # raw reward of the running episode, across lives
    finished: list[float] = field(default_factory=list)  # returns of episodes that ended since the last log
    logged: list[int] = field(default_factory=lambda: [0, 0])  # steps and updates at the last log

    def ended(self, raw_reward: float, end: bool) -> bool:
        """Counts a step's raw reward and, at an end, the episode."""
        self.episode_return += float(raw_reward)
        if end:
            self.finished.append(self.episode_return)
            self.episodes, self.episode_return = self.episodes + 1, 0.0
        return end

    def advance(self, observation: np.ndarray, first: bool) -> None:
        self.observation, self.first = observation, first
        self.step += 1

    def since_last_log(self) -> tuple[int, int]:
        steps, updates = self.step - self.logged[0], self.updates - self.logged[1]
        self.logged = [self.step, self.updates]
        return steps, updates

    def state(self) -> dict:
        counts = {key: value for key, value in vars(self).items() if key != "logged"}
        return counts | {"observation": np.array(self.observation)}

    def load_state(self, state: dict) -> None:
        vars(self).update(state)
        self.observation = np.asarray(self.observation)
        self.logged = [self.step, self.updates]  # rates count from the restart, as the clock does


def train(
    config, folder: RunFolder, parts: Parts, console: Console, stop: StopRequest, started: Callable[[], None]
) -> int:
    """Trains until config.agent_steps, from the newest checkpoint if there is one. Returns the exit code.

    `started` is called when the checkpoint has been read, before anything is written.
    Raises CheckpointError if there are checkpoints and none can be used, NotFinite before a value that is no number is
    written, OSError where the disk fails, Miscounted if the run ends with other counts than the configuration's.
    """
    agent, environment, replay, loop = parts.agent, parts.environment, parts.replay, config.loop
    position, means, clock = Position(), MetricMeans(), Clock()
    stateful = {"agent": agent, "environment": environment, "replay": replay, "position": position, "means": means}
    checkpoints = Checkpoints(folder.checkpoints, replay.capacity, config_hash(config))
    _resume(checkpoints, stateful, replay, console)
    started()
    metrics = CsvLog(folder.metrics, keep_until=position.step)
    evaluations = Evaluations(config, folder, parts.evaluate, parts.units, console, keep_until=position.step)
    if position.observation is None:
        position.observation, _ = environment.reset()

    def update() -> None:
        for kind in parts.schedule.due(position.step):
            with clock("update"):
                means.add(agent.update(replay, position.step, kind))
            position.updates += 1

    def save() -> None:
        agent.save_weights(folder.weights_at(position.step))
        if checkpoints.newest != position.step:
            with clock("checkpoint"):
                size = checkpoints.save(
                    position.step, {name: part.state() for name, part in stateful.items()}, replay.rows
                )
            waited = f"{size / 1e6:.1f} MB, training waited {clock.last:.2f} s"
            console.print(f"checkpoint after agent step {position.step}: {waited}")
        drop_older_weights()

    def evaluate() -> bool:
        if evaluations.due(position.step):
            agent.save_weights(folder.weights_at(position.step))
        finished = evaluations.finish_pending(position.step, watch)
        if finished and evaluations.due(position.step):
            drop_older_weights()
        return finished

    def drop_older_weights() -> None:
        if not config.keep_weights:
            folder.drop_weights(before=position.step, but={*parts.milestones, *evaluations.missing()})

    def watch(finished: int) -> None:
        progress.evaluation(finished, config.evaluation.episodes)
        stop.check()

    bar = RunProgress(config.agent_steps, position.step, console, loop.learning_starts)
    with tracked(config, folder, parts.milestones, console), bar as progress, closing(evaluations), checkpoints:
        while position.step < config.agent_steps and evaluate() and not stop.requested:
            with clock("act"):
                action = agent.act(position.observation, position.step, position.first)
            if not np.isfinite(action).all():
                raise NotFinite(f"the action of agent step {position.step} is {action}")
            replay.begin_step()
            if loop.order == "overlapped":
                update()
            with clock("environment"):
                observation, reward, terminated, truncated, info = environment.step(action)
            if not math.isfinite(reward):
                raise NotFinite(f"the reward of agent step {position.step} is {reward}")
            replay.store(position.observation, action, reward, terminated, truncated, observation, info)
            if loop.order == "released":
                update()
            ended = position.ended(info["raw_reward"], terminated or truncated)
            if ended:
                observation, _ = environment.reset()
            position.advance(observation, first=ended)
            progress.step(position.step)
            checkpoints.check()
            if position.step % config.log_every == 0 or position.step == config.agent_steps:
                row = _metrics_row(parts.units(position.step), position, means.read(), clock.read())
                metrics.append(row)
                progress.note(position.step, row["time/agent_steps_per_second"], _note(row, evaluations.last_score))
            if position.step % config.checkpoint_every == 0 or position.step == config.agent_steps:
                save()
        checkpoints.wait()  # a run with all its rows is done, and may be prolonged: its last checkpoint must be whole
        if position.step == config.agent_steps and evaluate():
            _check_counts(parts.schedule.total(config.agent_steps), position, evaluations)
            return DONE
        save()
    console.print(f"stopped after agent step {position.step}; the same command goes on from there")
    return RESUME_ME


def _resume(checkpoints: Checkpoints, stateful: dict, replay, console: Console) -> None:
    try:
        loaded = checkpoints.load(replay.load_rows, console.print)
        if loaded is None:
            return
        step, state = loaded
        for name, part in stateful.items():
            part.load_state(state[name])
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:  # whole, but of other parts
        raise CheckpointError(f"a checkpoint does not fit here: {error!r}") from error
    console.print(f"resumed at agent step {step}")


def _check_counts(updates: int, position: Position, evaluations: Evaluations) -> None:
    if position.updates != updates:
        raise Miscounted(f"{position.updates} updates were made, the configuration asks for {updates}")
    if evaluations.missing():
        raise Miscounted(f"the evaluations after agent steps {evaluations.missing()} have no rows")


def _metrics_row(units: dict, position: Position, means: dict, seconds: dict) -> dict:
    """A row of metrics.csv since the last one; keys carry their unit, `time/` holds what differs between equal runs."""
    row = {**units, "updates": position.updates, "episodes": position.episodes}
    steps, updates = position.since_last_log()
    row["train/episode_return"] = float(np.mean(position.finished)) if position.finished else None
    require_finite({f"train/{key} before agent step {position.step}": value for key, value in means.items()})
    row |= {f"train/{key}": value for key, value in means.items()}
    row["time/agent_steps_per_second"] = steps / seconds["total"]
    row["time/updates_per_second"] = updates / seconds["total"]
    row |= {f"time/{phase}_seconds": value for phase, value in seconds.items()}
    position.finished = []
    return row


def _note(row: dict, score: float | None) -> str:
    rates = f"{row['time/agent_steps_per_second']:.1f} steps/s  {row['time/updates_per_second']:.1f} updates/s"
    if row["train/episode_return"] is not None:
        rates += f"  episode return {row['train/episode_return']:.1f}"
    return rates if score is None else f"{rates}  last score {score:.1f}"
