"""A training: the loop, and what it leaves on disk."""

from collections.abc import Callable
from contextlib import closing

import numpy as np
from rich.console import Console

from harness.checkpoint import Checkpoints, checkpoint_name, require_finite
from harness.config import as_dict, require
from harness.errors import CheckpointError, Miscounted
from harness.evaluation import Evaluations
from harness.exit_codes import DONE, RESUME_ME
from harness.files import project_version
from harness.logs import CsvLog
from harness.loop import Parts, Position, TrainingLoop
from harness.progress import RunProgress
from harness.run_folder import RunFolder, checkpoint_names, config_hash
from harness.stop import StopRequest
from harness.trackers import tracked
from harness.weights import write_weights


class Records:
    """Files that a run leaves: rows of metrics and of evaluations, weights, checkpoints."""

    def __init__(
        self,
        config,
        folder: RunFolder,
        parts: Parts,
        loop: TrainingLoop,
        checkpoints: Checkpoints,
        progress: RunProgress,
        console: Console,
        stop: StopRequest,
    ):
        self._config, self._folder, self._parts, self._loop = config, folder, parts, loop
        self._checkpoints, self._progress, self._console, self._stop = checkpoints, progress, console, stop
        self._metrics = CsvLog(folder.metrics, keep_until=loop.whole_steps)
        self.evaluations = Evaluations(
            config, folder, parts.evaluate, parts.units, console, keep_until=loop.whole_steps
        )

    def evaluate_if_due(self) -> bool:
        """Plays every evaluation that is due and has no rows. False if a stop request ended one early."""
        step = self._loop.whole_steps
        due = self.evaluations.due(step) and not self._loop.updates_left
        if due:
            self._write_weights(step)
        finished = self.evaluations.finish_pending(step, self._watch)
        if finished and due:
            if self._parts.draw:
                self._parts.draw(self._folder.media, step)
            self._drop_older_weights()
        return finished

    def log_if_due(self) -> None:
        loop, config = self._loop, self._config
        due = loop.position.step % config.log_every == 0 or self._at_the_end or loop.events
        if loop.updates_left or not due:
            return
        units = self._parts.units(loop.position.step)
        row = _metrics_row(units, loop.position, loop.means.read(), loop.clock.read())
        row |= {f"event/{name}": value for name, value in loop.events.items()}
        self._metrics.append(row)
        self._progress.note(row, self.evaluations.last_score)

    def save_if_due(self) -> None:
        """Saves after every `checkpoint_every` agent steps, and inside a long phase after as many updates."""
        made, every = self._loop.updates_made, self._config.checkpoint_every
        if made is None:
            due = self._loop.position.step % every == 0 or self._at_the_end
        else:
            due = made > 0 and made % every == 0
        if due:
            self.save()

    def save(self) -> None:
        loop, position, made = self._loop, self._loop.position, self._loop.updates_made
        if made is None:
            self._write_weights(position.step)
        if self._checkpoints.newest != checkpoint_name(position.step, made):
            with loop.clock("checkpoint"):
                state = {name: part.state() for name, part in loop.stateful.items()}
                size = self._checkpoints.save(position.step, state, loop.replay.rows, made)
            waited = f"{size / 1e6:.1f} MB, training waited {loop.clock.last:.2f} s"
            self._console.print(f"checkpoint after {loop.where}: {waited}")
        if made is None:
            self._drop_older_weights()

    def _write_weights(self, step: int) -> None:
        about = {"version": project_version(), **self._parts.units(step), "config": as_dict(self._config)}
        write_weights(self._loop.agent.acting, self._folder.weights_at(step), about)

    @property
    def _at_the_end(self) -> bool:
        return self._loop.whole_steps == self._config.agent_steps

    def _drop_older_weights(self) -> None:
        if not self._config.keep_weights:
            kept = {*self._parts.milestones, *self.evaluations.missing()}
            self._folder.drop_weights(before=self._loop.position.step, but=kept)

    def _watch(self, finished: int) -> None:
        self._progress.evaluation(finished, self._config.evaluation.episodes)
        self._stop.check()


def train(
    config, folder: RunFolder, parts: Parts, console: Console, stop: StopRequest, started: Callable[[], None]
) -> int:
    """Trains until config.agent_steps, from the newest checkpoint if there is one. Returns the exit code.

    `started` is called when the checkpoint has been read, before anything is written.
    Raises CheckpointError if there are checkpoints and none can be used, and OSError where the disk fails. Raises
    NotFinite before a NaN or an infinity is written, and Miscounted if the counts at the end are not as configured.
    Raises ConfigError if the newest checkpoint is of a later agent step than the last one.
    """
    for name in checkpoint_names(folder.checkpoints)[-1:]:
        whole, inside, _ = name.partition("+")
        reached = int(whole) + bool(inside)
        require(
            reached <= config.agent_steps,
            f"{folder.path} has been trained for {reached} agent steps, more than the {config.agent_steps} asked for: "
            "ask for more, or give another run_dir",
        )
    loop = TrainingLoop(parts, config.loop.order)
    checkpoints = Checkpoints(folder.checkpoints, parts.replay.capacity, config_hash(config))
    _resume(checkpoints, loop, console)
    started()
    loop.start()
    position, updates = loop.position, parts.schedule.total(config.agent_steps)
    progress = RunProgress(config.agent_steps, updates, console, position.step, position.updates)
    records = Records(config, folder, parts, loop, checkpoints, progress, console, stop)
    with tracked(config, folder, parts.milestones, console), progress, closing(records.evaluations), checkpoints:
        while loop.whole_steps < config.agent_steps and records.evaluate_if_due() and not stop.requested:
            loop.step()
            progress.advance(position.step, position.updates, in_a_phase=loop.updates_left > 0)
            checkpoints.check()
            records.log_if_due()
            records.save_if_due()
        checkpoints.wait()  # a run with all its rows is done, and may be prolonged: its last checkpoint must be whole
        if loop.whole_steps == config.agent_steps and records.evaluate_if_due():
            if missing := records.evaluations.missing():
                raise Miscounted(f"the evaluations after agent steps {missing} have no rows")
            return DONE
        records.save()
    console.print(f"stopped after {loop.where}; the same command goes on from there")
    return RESUME_ME


def _resume(checkpoints: Checkpoints, loop: TrainingLoop, console: Console) -> None:
    try:
        loaded = checkpoints.load(loop.replay.load_rows, console.print)
        if loaded is None:
            return
        _, state = loaded
        for name, part in loop.stateful.items():
            part.load_state(state[name])
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:  # whole, but of other parts
        raise CheckpointError(f"a checkpoint does not fit here: {error!r}") from error
    console.print(f"resumed at {loop.where}")


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
