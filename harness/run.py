"""A whole run of either benchmark: parts from the configuration, training, evaluation, curve and video."""

import os
import re
import sys
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from harness.capture import capture_updates
from harness.checkpoint import checkpoint_names, require_finite_state
from harness.command_line import complain
from harness.config import ConfigError, validate_device, within
from harness.environments import Environments, LocalEnvironments, SpreadEnvironments
from harness.errors import CheckpointError, Miscounted, NotFinite, WorkerLost
from harness.evaluation import Evaluate, Player, Watch, is_finished, play_episodes, played_again, speed, timed
from harness.exit_codes import DISK_FAILED, DONE, FAILED
from harness.hardware import cpu_flops_per_second
from harness.logs import CsvLog
from harness.loop import Parts, train
from harness.memory import available_bytes
from harness.precision import set_precision
from harness.progress import RunProgress
from harness.report.curves import draw_learning_curve
from harness.report.scores import project_version, score_columns
from harness.run_folder import (
    RunFolder,
    check_run,
    load_config,
    read_config,
    read_manifest,
    record_failure,
    record_start,
)
from harness.schedule import ReplayRatio
from harness.seeding import derive_seed
from harness.stop import StopRequest
from harness.video import episode_video

TRAINED_BYTES = 16  # of one trained value: itself, its gradient, and Adam's two moments


@dataclass(frozen=True)
class Benchmark:
    """What sets one benchmark's runs apart from another's.

    Worker processes import these functions from their modules; that of `make_environment` does without torch.
    """

    schema: type  # of its configuration
    make_agent: Callable[[Any, Any, torch.device], Any]  # configuration, training environment, device
    make_replay: Callable[[Any, Any, torch.device], Any]  # the same
    make_environment: Callable[[Any, int, int, bool], Any]  # configuration, seed, episode, whether for training
    make_player: Callable[[Any, Path, int, torch.device], Player]  # configuration, weights, seed, device
    units: Callable[[Any, int], dict[str, int]]  # configuration, agent steps -> agent_steps, env_steps, frames
    score: Callable[[Any, float], dict[str, float]]  # configuration, an episode's score -> further columns
    manifest: Callable[[Any, Parts], dict]  # what identifies the emulator or the physics
    describe: Callable[[Any, Parts], list[str]]  # lines on networks and environment
    hidden_shares: Callable[[Any], Any]  # configuration of a run with MLR -> what its masks hide
    update_flops: Callable[[Any, Any], float]  # configuration, agent -> multiplications and additions of an update
    references: Callable[[Any], dict[str, float]]  # scores to compare with, by name
    milestones: Callable[[Any], list[int]]  # agent steps whose scores the paper's tables have, and the last one


def run(config, benchmark: Benchmark) -> int:
    """Trains, evaluates and draws one run; goes on with an interrupted one. Returns the exit code.

    Raises ConfigError if the folder, a checkpoint, the memory or a library does not allow it; then nothing was written.
    """
    console = Console(highlight=False, soft_wrap=True)
    device = choose_device(config.device)
    set_precision(config.precision, config.deterministic)
    if config.threads:
        torch.set_num_threads(config.threads)
    with StopRequest() as stop:
        folder = check_run(config)
        try:
            if is_finished(config, folder):
                console.print(f"{folder.path} is finished: delete it or choose another run_dir to train again")
                report_results(config, benchmark, folder, console)
                return DONE
            parts = make_parts_that_fit(config, benchmark, device)
            with folder.locked(), closing(parts.environment):
                code = train_and_explain(config, benchmark, folder, parts, device, console, stop)
                if code == DONE:
                    report_results(config, benchmark, folder, console)
                return code
        except OSError as error:
            drop_unwritten_output()
            complain(f"{error}: {what_remains(folder)}, the same command goes on from there")
            return DISK_FAILED


def train_and_explain(
    config, benchmark: Benchmark, folder: RunFolder, parts: Parts, device: torch.device, console: Console, stop
) -> int:
    """`train`, with a line and an exit code for what it raises."""

    def started() -> None:
        identity = {"benchmark": config.benchmark, "task": config.task, "version": project_version()}
        masked = {"mask_hides": asdict(benchmark.hidden_shares(config))} if config.aux == "mlr" else {}
        record_start(config, identity | benchmark.manifest(config, parts) | masked)
        describe(config, benchmark, parts, folder, device, console)

    try:
        return train(config, folder, parts, console, stop, started)
    except CheckpointError as error:
        raise ConfigError(str(error)) from error
    except (NotFinite, Miscounted) as error:
        failure = str(error)
    except torch.OutOfMemoryError as error:
        raise ConfigError(f"an update does not fit on {device}: choose smaller batches, or preset=cpu") from error
    except (LookupError, RuntimeError, ValueError) as error:
        failure = lost_number(parts)
        if not failure:
            raise
        failure = f"{failure}, which led to {error!r}"
    report = record_failure(folder, failure)
    complain(f"{failure}; nothing of it was saved, {report} says how to see it again")
    return FAILED


def lost_number(parts: Parts) -> str:
    """Where the parts hold a NaN or an infinity, with which libraries fail in ways of their own; empty if nowhere."""
    try:
        require_finite_state({"agent": parts.agent.state(), "replay": parts.replay.state()})
    except NotFinite as error:
        return str(error)
    return ""


def drop_unwritten_output() -> None:
    """Of a standard output that takes no more; the interpreter would fail on it once again."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def what_remains(folder: RunFolder) -> str:
    names = checkpoint_names(folder.checkpoints)
    return f"the newest checkpoint, {folder.checkpoints / names[-1]}, is good" if names else "nothing was saved yet"


def make_parts_that_fit(config, benchmark: Benchmark, device: torch.device) -> Parts:
    """Raises ConfigError if the memory does not hold them."""
    try:
        parts = make_parts(config, benchmark, device)
    except (MemoryError, RuntimeError) as error:
        # On the CPU torch has no class of its own for a refused allocation. On a GPU it has, and words do not tell: an
        # "illegal memory access" is something else.
        refused = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if not refused and (device.type == "cuda" or not re.search("memory|alloc|overflow", str(error))):
            raise
        raise ConfigError(f"this run does not fit on {device}: {str(error).splitlines()[0]}") from error
    available = available_bytes() if device.type == "cpu" else None  # a GPU has refused already
    if available is not None and memory_needed(parts) > available:
        raise ConfigError(
            f"this run does not fit on {device}: replay and networks take {memory_needed(parts) / 1e9:.1f} GB, "
            f"{available / 1e9:.1f} GB are free"
        )
    return parts


def memory_needed(parts: Parts) -> int:
    """Bytes of what is there all the time; the activations of an update come on top."""
    return parts.replay.nbytes + TRAINED_BYTES * sum(weight.numel() for weight in parts.agent.trained_parameters())


def make_parts(config, benchmark: Benchmark, device: torch.device) -> Parts:
    environment = benchmark.make_environment(config, config.seed, 0, True)
    agent = benchmark.make_agent(config, environment, device)
    replay = benchmark.make_replay(config, environment, device)
    if is_captured(config, device):
        capture_updates(agent, replay)
    return Parts(
        agent=agent,
        environment=environment,
        replay=replay,
        schedule=ReplayRatio(config.loop.learning_starts, config.loop.replay_ratio),
        evaluate=make_evaluate(config, benchmark, device),
        units=partial(benchmark.units, config),
        milestones=benchmark.milestones(config),
    )


def is_captured(config, device: torch.device) -> bool:
    """Whether updates run as CUDA graphs; kornia's augmentations draw on the host, which a graph would not repeat."""
    return config.capture == "auto" and device.type == "cuda" and not config.augmentation.extra


def make_evaluate(config, benchmark: Benchmark, device: torch.device) -> Evaluate:
    """An evaluation as a function of weights, index and the run's seed: one row per episode."""
    return partial(evaluate_weights, config, benchmark, device)


def evaluate_weights(
    config,
    benchmark: Benchmark,
    device: torch.device,
    weights: Path,
    index: int,
    video: Path | None,
    watch: Watch,
    workers: int = 0,
) -> list[dict]:
    """Rows of the evaluation's episodes, the same for any number of worker processes. Raises WorkerLost."""
    # Here too: this may be a process of its own.
    set_precision(config.precision, config.deterministic)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    seed = derive_seed(config.seed, "evaluation", index)
    with (
        episode_video(video) if video is not None else nullcontext() as film,
        make_environments(config, benchmark, seed, film is not None, workers) as environments,
    ):
        player = benchmark.make_player(config, weights, seed, device)
        episodes = play_episodes(player, environments, config.evaluation.episodes, film, watch)
    return [
        {
            "episode": i,
            "score": episode.score,
            **benchmark.score(config, episode.score),
            "episode_agent_steps": episode.agent_steps,
        }
        for i, episode in enumerate(episodes)
    ]


def make_environments(config, benchmark: Benchmark, seed: int, film: bool, workers: int) -> Environments:
    """Those of an evaluation, in this process where there are no workers."""
    evaluation, shape = config.evaluation, (config.evaluation.environments, *config.observation_shape)
    make = partial(benchmark.make_environment, config, seed, training=False)
    if workers:
        return SpreadEnvironments(make, shape, workers, evaluation.timeout_seconds, film)
    return LocalEnvironments(make, np.zeros(shape, np.uint8))


def choose_device(name: str) -> torch.device:
    """Raises ConfigError for a device that this machine does not have."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    validate_device(name)
    device = torch.device(name)
    if device.type == "cuda" and not (torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()):
        raise ConfigError(f"device={name}: torch finds no such GPU; install a CUDA build of torch or use device=cpu")
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)
        torch.cuda.set_device(device)  # pinned memory, and what asks for no device by name, belong to this one
    return device


def describe(
    config, benchmark: Benchmark, parts: Parts, folder: RunFolder, device: torch.device, console: Console
) -> None:
    """Prints what will run and what it takes."""
    replay, updates = parts.replay, parts.schedule.total(config.agent_steps)
    name = f"CPU, {torch.get_num_threads()} threads" + (", bf16" if config.precision == "bf16" else "")
    if device.type == "cuda":
        run_as = "as CUDA graphs" if is_captured(config, device) else "run eagerly"
        name = f"{torch.cuda.get_device_name(device)}, {config.precision}, updates {run_as}"
    units = ", ".join(
        f"{count:,} {unit.replace('_', ' ')}" for unit, count in benchmark.units(config, config.agent_steps).items()
    )
    lines = [
        f"{config.task}  seed {config.seed}  aux {config.aux}  fidelity {config.fidelity}  preset {config.preset}",
        f"run folder   {folder.path}",
        f"device       {name}",
        f"length       {units}, {updates:,} updates",
        *benchmark.describe(config, parts),
        *([f"mask         hides {benchmark.hidden_shares(config)}"] if config.aux == "mlr" else []),
        f"replay       {replay.nbytes / 1e9:.3f} GB for {replay.capacity:,} steps",
        f"memory       {memory_needed(parts) / 1e9:.3f} GB with networks and optimisers; an update takes more",
    ]
    if device.type == "cpu":
        hours = updates * benchmark.update_flops(config, parts.agent) / cpu_flops_per_second() / 3600
        if hours >= 1 / 60:
            length = f"{hours:,.0f} hours" if hours >= 2 else f"{hours * 60:.0f} minutes"
            advice = "; a GPU, or preset=cpu, is what you want" if hours > 48 else ""
            lines.append(f"cost         at least {length} on this CPU for the updates' arithmetic alone{advice}")
    console.print("\n".join(lines))


def report_results(config, benchmark: Benchmark, folder: RunFolder, console: Console) -> None:
    """Draws the learning curve and names what the run wrote. Raises OSError if its rows are not there any more."""
    folder.evaluations.stat()
    curve = draw_learning_curve(folder, config.task, benchmark.references(config))
    rows = CsvLog(folder.evaluations).read()
    for step in benchmark.milestones(config):
        env_steps = benchmark.units(config, step)["env_steps"]
        episodes = [row for row in rows if row["agent_steps"] == str(step)]
        if episodes:
            console.print(f"{summary(config, benchmark, episodes)}, after {env_steps:,} environment steps")
    console.print(f"rows   {folder.evaluations}\ncurve  {curve}")
    for video in sorted(folder.media.glob("episode_*.mp4"))[-1:]:
        console.print(f"video  {video}")


def summary(config, benchmark: Benchmark, rows: list[dict]) -> str:
    scores = np.array([float(row["score"]) for row in rows])
    further = [
        f", {name.replace('_', '-')} {value:.3f}" for name, value in benchmark.score(config, scores.mean()).items()
    ]
    return f"score  {scores.mean():.1f} +- {scores.std():.1f} over {len(scores)} episodes{''.join(further)}"


def evaluate_run(
    run: Path,
    benchmark: Benchmark,
    *,
    agent_steps: int | None,
    episodes: int | None,
    seed: int,
    device: str,
    video: bool,
    csv: Path | None,
    workers: int | None,
) -> None:
    """Plays `episodes` with the newest weights of a run folder, or those after `agent_steps`.

    Prints the score, writes CSV and video if asked.
    """
    console = Console(highlight=False, soft_wrap=True)
    config = load_config(run, benchmark.schema)
    if csv and not csv.absolute().parent.is_dir():
        raise ConfigError(f"--csv {csv}: there is no folder {csv.absolute().parent}")
    episodes = episodes or config.evaluation.episodes
    environments = min(config.evaluation.environments, episodes)
    if workers is None:
        workers = min(config.evaluation.workers, environments)
    within(0, environments, "--workers", workers, "at most as many as there are environments")
    evaluation = replace(config.evaluation, episodes=episodes, environments=environments)
    config = replace(config, seed=seed, evaluation=evaluation)
    folder = RunFolder(run)
    weights = folder.saved_weights(agent_steps)
    units = benchmark.units(config, int(weights.stem))
    if config.threads:
        torch.set_num_threads(config.threads)
    video_file = folder.media / f"evaluation_{weights.stem}_seed_{seed}.mp4" if video else None
    with RunProgress(0, 0, console) as progress:
        watch = partial(progress.evaluation, episodes=episodes)
        evaluate = make_evaluate(config, benchmark, choose_device(device))
        try:
            rows, seconds = timed(evaluate, weights, 0, video_file, watch, workers)
        except WorkerLost as error:
            console.print(played_again(error))
            rows, seconds = timed(evaluate, weights, 0, video_file, watch, 0)
    console.print(f"{config.task}, weights after {units['env_steps']:,} environment steps")
    console.print(speed(rows, seconds, partial(benchmark.units, config)))
    console.print(summary(config, benchmark, rows))
    if csv:
        csv.unlink(missing_ok=True)
        columns = score_columns(read_config(run), read_manifest(run))
        columns |= {"source": "evaluate", "evaluation_seed": seed, **units}
        CsvLog(csv).append(*({**columns, **row} for row in rows))
        console.print(f"rows   {csv}")
    if video_file:
        console.print(f"video  {video_file}")
