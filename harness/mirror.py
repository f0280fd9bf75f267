"""The process of a tracker: copies metrics.csv and evaluations.csv of a run to it until its standard input ends.

python -m harness.mirror tensorboard|wandb RUN LOGGER MILESTONE...     LOGGER: section of the configuration, as JSON

A run starts it (harness/trackers.py). It imports the library of its tracker and no torch. It reports in single lines
on its standard output, which that library never gets to see.
"""

import fcntl
import hashlib
import json
import os
import secrets
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.config import LoggerConfig
from harness.disk import lock
from harness.files import installation
from harness.logs import CsvLog
from harness.messages import in_one_line, shorten
from harness.report.scores import score_columns
from harness.run_folder import RunFolder, leaves, read_config, read_manifest, write_whole
from harness.stop import STOP_SIGNALS

SENT = Path("wandb/sent.json")  # in the run folder
UNITS = ("agent_steps", "env_steps", "frames")
KILLED = 255  # the run's exit code for W&B if its end was not announced
ANIMATION_FRAMES = 150
SIZES = ("height", "width", "colorspace")  # TensorBoard asks for these fields and reads the picture's own values
COMPARED = ("task", "seed", "auxiliary", "fidelity", "preset")
UPLOAD_SHARE = 0.8  # share of the time that the end of a run has; the rest is for recording what could not be sent

Row = dict[str, Any]
Say = Callable[[str], None]


class TensorBoard:
    """Event files in RUN/tensorboard, written anew at each start: rows before a resume may have been made again."""

    def __init__(self, config: dict, folder: RunFolder, say: Say):
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.hparams import summary_v2 as hparams
        from tensorboard.plugins.text.metadata import create_summary_metadata
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
        from tensorboard.util.tensor_util import make_tensor_proto

        self._make_event, self._make_summary, self._folder = Event, Summary, folder
        self.sent = {"metrics": -1, "evaluations": -1}
        path = folder.path / "tensorboard"
        for file in path.glob("events.out.tfevents.*"):
            file.unlink()
        self._writer = EventFileWriter(str(path))
        start = SessionLog(status=SessionLog.START)  # an open TensorBoard drops what it has read from the older files
        self._writer.add_event(Event(wall_time=time.time(), step=0, session_log=start))
        settings = compared_settings(config, read_manifest(folder.path))
        metric = hparams.Metric("eval/score", display_name="score")
        self._add(0, hparams.hparams_config_pb([hparams.HParam(key) for key in settings], [metric]))
        self._add(0, hparams.hparams_pb(settings, trial_id=str(folder.path)))
        text = "".join(f"    {line}\n" for line in (folder.path / "config.yaml").read_text().splitlines())  # as code
        form = create_summary_metadata(display_name="configuration", description="")
        value = Summary.Value(tag="configuration", metadata=form, tensor=make_tensor_proto(text))
        self._add(0, Summary(value=[value]))
        say(f"to look at it: tensorboard --logdir {folder.path}")

    def write(self, rows: list[tuple[str, Row]]) -> None:
        """rows: (`metrics` or `evaluations`, the row)."""
        for kind, row in rows:
            value = self._make_summary.Value
            values = [value(tag=key, simple_value=row[key]) for key in row if key not in UNITS]
            if kind == "evaluations" and (video := self._folder.video_at(row["agent_steps"])).is_file():
                image = self._make_summary.Image(encoded_image_string=animation(video), **dict.fromkeys(SIZES, 1))
                values.append(value(tag="eval/video", image=image))
            self._add(row["agent_steps"], self._make_summary(value=values))
        self._writer.flush()

    def _add(self, step: int, summary) -> None:
        self._writer.add_event(self._make_event(wall_time=time.time(), step=step, summary=summary))

    def summarise(self, scores: Row) -> None:
        """Nothing: it has no summary values."""

    def close(self, code: int) -> None:
        self._writer.close()


class WandB:
    """A W&B run, the same at each start in a run folder.

    RUN/wandb/sent.json has its id and, in the order of their numbers, the rows that were handed over. The service
    says how many of them have arrived; offline all count as arrived.
    """

    def __init__(self, config: dict, folder: RunFolder, say: Say):
        # Its own reports of errors go to a service as well.
        os.environ |= {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}
        import wandb

        self._folder, self._video, self._file = folder, wandb.Video, folder.path / SENT
        self._file.parent.mkdir(exist_ok=True)
        # order: (kind, agent steps) of each row
        self._state: dict[str, Any] = {"id": secrets.token_hex(8), "order": []}
        if self._file.is_file():
            self._state = json.loads(self._file.read_text())
        self._remember()  # the id also where the start below hangs
        arrived = len(self._state["order"])
        later = f"wandb sync --yes {self._file.parent}/offline-run-*"
        self._say, self._summary, mode = say, {}, LoggerConfig(**config["logger"]).wandb
        try:
            self._run = self._start(wandb, config, folder, mode)
            if mode == "online":
                arrived = self._run.starting_step
            say(self._run.url if mode == "online" else f"offline; to send it: {later}")
        except Exception as error:  # wandb documents none; no key, no network, a refusal, no answer in time
            if mode == "offline":
                raise
            wandb.teardown()
            self._run = self._start(wandb, config, folder, "offline")
            say(f"{reason(error)}; goes on offline, to send it: {later}")
        unknown = [("metrics", -1)] * (arrived - len(self._state["order"]))  # somebody else's: their numbers are taken
        self._state["order"] = self._state["order"][:arrived] + unknown
        self.sent = {"metrics": -1, "evaluations": -1} | {kind: steps for kind, steps in self._state["order"]}
        self._run.define_metric("*", step_metric="agent_steps")
        for unit in UNITS:
            self._run.define_metric(unit, hidden=True)  # as a curve; the x axis may still be any of them
        self._remember()

    def _start(self, wandb, config: dict, folder: RunFolder, mode: str):
        logger = LoggerConfig(**config["logger"])
        columns = score_columns(config, read_manifest(folder.path))
        tags = [columns["task"], config["auxiliary"], config["fidelity"], config["preset"], *logger.tags]
        return wandb.init(
            mode=mode,
            id=self._state["id"],
            resume="allow",
            dir=folder.path,
            project=logger.project,
            entity=logger.entity or None,
            group=logger.group or f"{columns['suite']}/{columns['task']}/{config['experiment']}",
            tags=list(dict.fromkeys(tags)),
            name=f"{columns['method']}-{columns['task']}-seed_{columns['seed']}",
            config={key: value for key, value in (config | columns).items() if key != "logger"},
            settings=wandb.Settings(
                init_timeout=logger.start_timeout_seconds,
                finish_timeout=UPLOAD_SHARE * logger.finish_timeout_seconds,
                finish_timeout_raises=True,
                console="off",
                save_code=False,
                disable_git=True,
                x_disable_meta=True,  # metadata would be of this process, not of the run's
                x_disable_stats=True,
            ),
        )

    def write(self, rows: list[tuple[str, Row]]) -> None:
        """Numbers of their own count the rows: W&B drops what has an earlier one. rows: see TensorBoard.write."""
        first = len(self._state["order"])
        self._state["order"] += [(kind, row["agent_steps"]) for kind, row in rows]
        self._remember()  # before W&B has them: a kill in between must not leave rows that nobody can name
        for i, (kind, row) in enumerate(rows, first):
            video = self._folder.video_at(row["agent_steps"])
            shown = {"eval/video": self._video(str(video))} if kind == "evaluations" and video.is_file() else {}
            self._run.log(row | shown, step=i, commit=True)

    def summarise(self, scores: Row) -> None:
        if scores != self._summary:
            self._run.summary.update(scores)
            self._summary = scores

    def close(self, code: int) -> None:
        try:
            self._run.finish(exit_code=code)
        except TimeoutError:
            log = Path(self._run.dir).parent
            self._say(f"no time to send all; the next start does, or: wandb sync --yes --include-online {log}")

    def _remember(self) -> None:
        write_whole(self._file, json.dumps(self._state))


TRACKERS: dict[str, type[TensorBoard] | type[WandB]] = {"tensorboard": TensorBoard, "wandb": WandB}


def follow(name: str, folder: RunFolder, section: dict, milestones: list[int], say: Say) -> None:
    """Copies rows until the run has ended, then the last of them."""
    config = read_config(folder.path) | {"logger": section}
    logger = LoggerConfig(**section)

    def end_within(seconds: float) -> bool:
        """Waits for the run's end, `seconds` at most; from then on this process has not much time left."""
        ended = bool(select.select([sys.stdin], [], [], seconds)[0])
        if ended:
            signal.setitimer(signal.ITIMER_REAL, logger.finish_timeout_seconds)
        return ended

    with (folder.path / f".{name}.lock").open("w") as file:
        lock(file, fcntl.LOCK_EX)  # the tracker of a run that was killed may still be busy
        ended = end_within(start_delay(logger, folder) if name == "wandb" else 0)
        if ended and name == "wandb" and logger.wandb == "offline" and all_handed_over(config, folder):
            return  # another start would make a log without rows
        tracker = TRACKERS[name](config, folder, say)
        copy(tracker, config, folder, milestones)
        while not ended:
            ended = end_within(logger.send_every_seconds)
            copy(tracker, config, folder, milestones)
        tracker.close(int(sys.stdin.readline() or KILLED))


def start_delay(logger: LoggerConfig, folder: RunFolder) -> float:
    """Seconds, another number for every run folder, so that a sweep does not reach the service all at once."""
    if logger.wandb != "online":
        return 0.0
    digest = hashlib.sha256(str(folder.path.absolute()).encode()).digest()
    return logger.start_spread_seconds * digest[0] / 256


def copy(tracker: TensorBoard | WandB, config: dict, folder: RunFolder, milestones: list[int]) -> None:
    """Writes the rows that `tracker` has not got, in the order of their agent steps."""
    found = {"metrics": metrics_rows(folder), "evaluations": evaluation_rows(folder, config["evaluation"]["episodes"])}
    new = [(kind, row) for kind, rows in found.items() for row in rows if row["agent_steps"] > tracker.sent[kind]]
    new.sort(key=lambda entry: entry[1]["agent_steps"])
    tracker.write(new)
    tracker.sent |= {kind: row["agent_steps"] for kind, row in new}
    tracker.summarise(summary_scores(found["evaluations"], milestones))


def all_handed_over(config: dict, folder: RunFolder) -> bool:
    """Tells whether W&B got every row of the run in earlier starts."""
    sent = folder.path / SENT
    rows = [*metrics_rows(folder), *evaluation_rows(folder, config["evaluation"]["episodes"])]
    return sent.is_file() and len(json.loads(sent.read_text())["order"]) >= len(rows)


def summary_scores(evaluations: list[Row], milestones: list[int]) -> Row:
    """score_<N>_env_steps for each milestone that has been evaluated, and `score` for the last."""
    scores = {row["agent_steps"]: row for row in evaluations if row["agent_steps"] in milestones}
    final = {"score": scores[milestones[-1]]["eval/score"]} if milestones[-1] in scores else {}
    return {f"score_{row['env_steps']}_env_steps": row["eval/score"] for row in scores.values()} | final


def metrics_rows(folder: RunFolder) -> list[Row]:
    """The rows as numbers, empty cells left out. Counts go to the section `time`, so that scores stand first."""
    rows = [{key: number(text) for key, text in row.items() if text} for row in CsvLog(folder.metrics).read()]
    return [{key if "/" in key or key in UNITS else f"time/{key}": row[key] for key in row} for row in rows]


def evaluation_rows(folder: RunFolder, episodes: int) -> list[Row]:
    """A row per evaluation that is complete: the means over its episodes under `eval/`."""
    by_step: dict[str, list[dict]] = {}
    for row in CsvLog(folder.evaluations).read():
        by_step.setdefault(row["agent_steps"], []).append(row)
    return [evaluation_row(rows) for rows in by_step.values() if len(rows) == episodes]


def compared_settings(config: dict, manifest: dict) -> dict[str, bool | int | float | str]:
    """Settings that tell one run from another: the usual ones, and what the command line has set."""
    given = {argument.lstrip("+").partition("=")[0] for argument in manifest["starts"][0]["command"]}
    chosen = {key: value for key, value in leaves(config).items() if key in COMPARED or key in given}
    return {key: value for key, value in chosen.items() if isinstance(value, (bool, int, float, str))}


def animation(video: Path) -> bytes:
    """A GIF of an mp4 file, with `ANIMATION_FRAMES` of its frames at most."""
    import imageio.v2 as imageio

    with imageio.get_reader(video) as reader:
        frames, fps = [frame for frame in reader], reader.get_meta_data()["fps"]
    skip = -(-len(frames) // ANIMATION_FRAMES)
    return imageio.mimwrite("<bytes>", frames[::skip], format="gif", duration=1000 * skip / fps, loop=0)


def evaluation_row(rows: list[dict[str, str]]) -> Row:
    columns = list(rows[0])
    results = columns[columns.index("episode") + 1 :]
    means = {f"eval/{key}": sum(float(row[key]) for row in rows) / len(rows) for key in results}
    return {key: int(rows[0][key]) for key in UNITS} | means


def number(text: str) -> int | float:
    return int(text) if text.isdigit() else float(text)


def reason(error: Exception) -> str:
    return shorten(in_one_line(str(error)) or repr(error), 200)


def main(name: str, run: str, logger: str, *milestones: str) -> None:
    reports = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.nice(10)
    for one in STOP_SIGNALS:
        signal.signal(one, signal.SIG_IGN)  # a scheduler sends them to every process; the run ends this one

    def say(line: str) -> None:
        with suppress(BrokenPipeError):  # the run was killed
            os.write(reports, f"{line}\n".encode())

    try:
        follow(name, RunFolder(run), json.loads(logger), [int(step) for step in milestones], say)
    except ModuleNotFoundError as error:
        say(f"no package {error.name}: {installation('track')}; metrics.csv goes on without")
    except Exception as error:  # whatever it is, the run goes on
        say(f"{reason(error)}; metrics.csv goes on without")
    os._exit(0)  # W&B's own hooks at exit may wait for a service


if __name__ == "__main__":
    main(*sys.argv[1:])
