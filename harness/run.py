"""A whole run of any recipe: parts from the configuration, training, evaluation, curve and video."""

import re
import sys
from collections.abc import Mapping
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from harness.agent import Agent
from harness.capture import capture_updates
from harness.checkpoint import flatten, require_finite
from harness.config import DEVICE, ConfigError, require
from harness.environments import Environments, LocalEnvironments, SpreadEnvironments
from harness.episodes import PLAYED, own_columns, pack, taken
from harness.errors import CheckpointError, Miscounted, NotFinite, WorkerLost
from harness.evaluation import Watch, episode_rows, is_finished, joined, play_episodes, played_again, speed, timed
from harness.exit_codes import DISK_FAILED, DONE, FAILED
from harness.files import project_version
from harness.fused import seconds_on
from harness.hardware import cpu_flops_per_second
from harness.logs import CsvLog
from harness.loop import Parts, require_order
from harness.memory import available_bytes, keep_freed_memory
from harness.messages import complain
from harness.operations import run_operations
from harness.precision import set_precision
from harness.progress import RunProgress
from harness.recipe import Recipe, Spaces
from harness.report.curves import draw_run
from harness.report.scores import score_columns
from harness.run_folder import (
    RunFolder,
    check_run,
    checkpoint_names,
    episodes_beside,
    read_config,
    read_manifest,
    record_failure,
    record_start,
)
from harness.schedule import count_kinds
from harness.seeding import derive_seed
from harness.stop import StopRequest
from harness.trackers import tracked
from harness.training import train
from harness.video import episode_video

FEW_UPDATES = 150  # for which counting an update's operations, a second's work, is not worth it
TRAINED_BYTES = 16  # of one trained value: itself, its gradient, and Adam's two moments


def run(config, recipe: Recipe) -> int:
    """Trains, evaluates and draws one run; goes on with an interrupted one. Returns the exit code.

    Raises ConfigError if the folder, a checkpoint, the memory or a library does not allow it; then nothing was written.
    """
    console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    device = choose_device(config.device)
    set_precision(config.precision, config.deterministic)
    keep_freed_memory()
    if config.threads:
        torch.set_num_threads(config.threads)
    with StopRequest() as stop:
        folder = check_run(config)
        try:
            if is_finished(config, folder):
                console.print(f"{folder.path} is finished: delete it or choose another run_dir to train again")
                report_results(config, recipe, folder, console)
                with tracked(config, folder, recipe.suite.milestones(config), console):
                    pass  # rows that a tracker lacks are sent
                return DONE
            parts = make_parts_that_fit(config, recipe, device)
            with folder.locked(), closing(parts.environment):
                code = train_and_explain(config, recipe, folder, parts, device, console, stop)
                if code == DONE:
                    report_results(config, recipe, folder, console)
                return code
        except OSError as error:
            names = checkpoint_names(folder.checkpoints)
            newest = f"the newest checkpoint, {folder.checkpoints / names[-1]}, is good" if names else ""
            complain(f"{error}: {newest or 'nothing was saved yet'}, the same command goes on from there")
            return DISK_FAILED


def train_and_explain(
    config, recipe: Recipe, folder: RunFolder, parts: Parts, device: torch.device, console: Console, stop
) -> int:
    """`train`, with a line and an exit code for what it raises."""

    def started() -> None:
        identity = {"suite": config.suite, "method": config.method, "task": config.task}
        identity |= {"agent_steps": config.agent_steps, "version": project_version()}
        record_start(config, identity | recipe.suite.manifest(config, parts.environment) | notes(parts.agent))
        describe(config, recipe, parts, folder, device, console)

    try:
        return train(config, folder, parts, console, stop, started)
    except CheckpointError as error:
        raise ConfigError(str(error)) from error
    except (NotFinite, Miscounted) as error:
        failure = str(error)
    except torch.OutOfMemoryError as error:
        advice = "" if config.precision == "bf16" else "precision=bf16, "
        advice += "smaller batches, or preset=cpu"
        raise ConfigError(f"an update does not fit on {device}: choose {advice}") from error
    except (LookupError, RuntimeError, ValueError) as error:
        try:  # libraries fail in ways of their own where a NaN or an infinity is in the parts
            require_finite(flatten({"agent": parts.agent.state(), "replay": parts.replay.state()}))
        except NotFinite as lost:
            failure = f"{lost}, which led to {error!r}"
        else:
            raise
    report = record_failure(folder, failure)
    complain(f"{failure}; nothing of it was saved, {report} says how to see it again")
    return FAILED


def notes(agent: Agent) -> dict:
    """Facts for the manifest from the agent's auxiliary, if there is one."""
    return {} if agent.auxiliary is None else {"auxiliary": agent.auxiliary.notes(), "curve": agent.auxiliary.curve}


def make_parts_that_fit(config, recipe: Recipe, device: torch.device) -> Parts:
    """Raises ConfigError if the memory does not hold them."""
    try:
        parts = make_parts(config, recipe, device)
    except (MemoryError, RuntimeError) as error:
        # On the CPU torch has no class of its own for a refused allocation. On a GPU it has, and words do not tell: an
        # "illegal memory access" is something else.
        refused = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if not refused and (device.type == "cuda" or not re.search("memory|alloc|overflow", str(error))):
            raise
        advice = "; precision=bf16 needs less" if device.type == "cuda" and config.precision != "bf16" else ""
        raise ConfigError(f"this run does not fit on {device}: {str(error).splitlines()[0]}{advice}") from error
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


def make_parts(config, recipe: Recipe, device: torch.device) -> Parts:
    schedule = recipe.method.make_schedule(config)
    require_order(schedule, config.loop.order)
    environment = recipe.suite.make_environment(config, config.seed, 0, True)
    spaces = Spaces.of(environment)
    agent = recipe.method.make_agent(config, spaces, device)
    if config.compile:
        agent.compile()
        print("note: the first updates compile the networks, which takes minutes", file=sys.stderr)
    elif is_fused(config, device):
        for reason in agent.fuse(seconds_on(device)):
            print(f"note: not fused, torch's own operations run: {reason}", file=sys.stderr)
    replay = recipe.method.make_replay(config, spaces, device)
    return Parts(
        agent=agent,
        environment=environment,
        replay=replay,
        schedule=schedule,
        evaluate=partial(evaluate_weights, config, recipe, device),
        units=partial(recipe.suite.units, config),
        milestones=recipe.suite.milestones(config),
        update=capture_updates(agent, replay) if is_captured(config, device) else None,
        draw=partial(recipe.method.draw, config, agent, replay) if recipe.method.draw else None,
    )


def is_captured(config, device: torch.device) -> bool:
    """Tells whether updates run as CUDA graphs; no graph repeats what an update does on the host."""
    return config.capture == "auto" and device.type == "cuda" and config.without_host_work == config


def is_fused(config, device: torch.device) -> bool:
    """Tells whether fused kernels are tried; which of them is faster may differ from start to start."""
    return config.fused == "auto" and device.type == "cuda" and not config.deterministic


def evaluate_weights(
    config,
    recipe: Recipe,
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
        make_environments(config, recipe, seed, film is not None, workers) as environments,
    ):
        player = recipe.method.make_player(config, weights, seed, device)
        episodes = play_episodes(player, environments, config.evaluation.episodes, film, watch)
    rows = episode_rows(episodes, partial(recipe.suite.columns, config))
    played = ({"environment_seed": seed, "actions": pack(episode.actions)} for episode in episodes)
    return [row | {PLAYED: how} for row, how in zip(rows, played, strict=True)]


def make_environments(config, recipe: Recipe, seed: int, film: bool, workers: int) -> Environments:
    """Environments of an evaluation, in this process where there are no workers."""
    evaluation, shape = config.evaluation, (config.evaluation.environments, *config.observation_shape)
    make = partial(recipe.suite.make_environment, config, seed, training=False)
    if workers:
        return SpreadEnvironments(make, shape, workers, evaluation.timeout_seconds, film)
    return LocalEnvironments(make, np.zeros(shape, np.uint8))


def choose_device(name: str) -> torch.device:
    """Raises ConfigError for a device that this machine does not have."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    require(re.fullmatch(DEVICE, name) is not None, f"device={name} is not one of auto, cpu, cuda, cuda:N")
    device = torch.device(name)
    if device.type == "cuda" and not (torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()):
        raise ConfigError(f"device={name}: torch finds no such GPU; install a CUDA build of torch or use device=cpu")
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)
        torch.cuda.set_device(device)  # pinned memory, and what asks for no device by name, belong to this one
    return device


def describe(config, recipe: Recipe, parts: Parts, folder: RunFolder, device: torch.device, console: Console) -> None:
    """Prints what will run and what it takes."""
    replay, updates = parts.replay, parts.schedule.total(config.agent_steps)
    name = f"CPU, {torch.get_num_threads()} threads" + (", bf16" if config.precision == "bf16" else "")
    if device.type == "cuda":
        run_as = "as CUDA graphs" if is_captured(config, device) else "run eagerly"
        name = f"{torch.cuda.get_device_name(device)}, {config.precision}, updates {run_as}"
    units = ", ".join(
        f"{count:,} {unit.replace('_', ' ')}" for unit, count in recipe.suite.units(config, config.agent_steps).items()
    )
    lines = [
        f"{config.task}  seed {config.seed}  auxiliary {config.auxiliary}  fidelity {config.fidelity}  "
        f"preset {config.preset}",
        f"run folder   {folder.path}",
        f"device       {name}",
        f"length       {units}, {updates:,} updates",
        *recipe.method.describe(config, parts.agent),
        *recipe.suite.describe(config, parts.environment, device.type),
        *(f"{name.ljust(12)} {note}" for name, note in notes(parts.agent).get("auxiliary", {}).items()),
        f"replay       {replay.nbytes / 1e9:.3f} GB for {replay.capacity:,} steps",
        f"memory       {memory_needed(parts) / 1e9:.3f} GB with networks and optimisers; an update takes more",
    ]
    if device.type == "cuda" and is_captured(config, device):  # warming up has made updates
        taken, there = torch.cuda.max_memory_reserved(device), torch.cuda.get_device_properties(device).total_memory
        lines.append(f"GPU memory   {taken / 1e9:.1f} GB of {there / 1e9:.1f} GB")
    if device.type == "cpu" and updates > FEW_UPDATES:
        kinds = count_kinds(parts.schedule, config.agent_steps)
        lines += describe_cost(config, recipe, parts.environment, kinds)
    console.print("\n".join(lines))


def describe_cost(config, recipe: Recipe, environment: Any, updates: Mapping[str, int]) -> list[str]:
    """A line on the time that updates, given by kind, need on a CPU at the least, where that is a minute or more."""
    operations = run_operations(recipe.method, config, Spaces.of(environment), updates)
    hours = (operations or 0) / cpu_flops_per_second() / 3600
    if hours < 1 / 60:
        return []
    length = f"{hours:,.0f} hours" if hours >= 2 else f"{hours * 60:.0f} minutes"
    advice = "; a GPU, or preset=cpu, is what you want" if hours > 48 else ""
    return [f"cost         at least {length} on this CPU for the updates' arithmetic alone{advice}"]


def report_results(config, recipe: Recipe, folder: RunFolder, console: Console) -> None:
    """Draws the learning curve and names what the run wrote. Raises OSError if its rows are not there any more."""
    folder.evaluations.stat()
    agreement, suite = read_manifest(folder.path).get("curve"), recipe.suite
    curve = draw_run(folder, suite.references(config), agreement, suite.scores)
    rows = CsvLog(folder.evaluations).read()
    for step in recipe.suite.milestones(config):
        env_steps = recipe.suite.units(config, step)["env_steps"]
        episodes = [row for row in rows if row["agent_steps"] == str(step)]
        if episodes:
            console.print(f"{summary(config, recipe, episodes)}, after {env_steps:,} environment steps")
    console.print(f"rows   {folder.evaluations}\ncurve  {curve}")
    for video in sorted(folder.media.glob("episode_*.mp4"))[-1:]:
        console.print(f"video  {video}")


def summary(config, recipe: Recipe, rows: list[dict]) -> str:
    scores = np.array([float(row["score"]) for row in rows])
    own = {name: float(np.mean([float(row[name]) for row in rows])) for name in own_columns(rows[0])}
    means = recipe.suite.columns(config, scores.mean()) | own
    further = [f", {name.replace('_', '-')} {value:.3f}" for name, value in means.items()]
    return f"score  {scores.mean():.1f} +- {scores.std():.1f} over {len(scores)} episodes{''.join(further)}"


def evaluate_run(
    run: Path,
    config: Any,
    recipe: Recipe,
    *,
    agent_steps: int | None,
    episodes: int | None,
    seed: int,
    device: str,
    video: bool,
    csv: Path | None,
    workers: int | None,
    evaluation: int = 0,
) -> None:
    """Plays `episodes` with the newest weights of a run folder, or those after `agent_steps`.

    Prints the score, writes video, CSV and the episodes beside it if asked. With a run's own seed, `evaluation` is the
    number of the evaluation of the training whose episodes are played.
    """
    console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    if csv and not csv.absolute().parent.is_dir():
        raise ConfigError(f"--csv {csv}: there is no folder {csv.absolute().parent}")
    episodes = episodes or config.evaluation.episodes
    environments = min(config.evaluation.environments, episodes)
    if workers is None:
        workers = min(config.evaluation.workers, environments)
    require(0 <= workers <= environments, f"--workers {workers} must be in 0..{environments}, the environments at once")
    config = replace(
        config, seed=seed, evaluation=replace(config.evaluation, episodes=episodes, environments=environments)
    )
    folder = RunFolder(run)
    weights = folder.saved_weights(agent_steps)
    units = recipe.suite.units(config, int(weights.stem))
    if config.threads:
        torch.set_num_threads(config.threads)
    video_file = folder.media / f"evaluation_{weights.stem}_seed_{seed}.mp4" if video else None
    with RunProgress(0, 0, console) as progress:
        watch = partial(progress.evaluation, episodes=episodes)
        evaluate = partial(evaluate_weights, config, recipe, choose_device(device))
        try:
            rows, seconds = timed(evaluate, weights, evaluation, video_file, watch, workers)
        except WorkerLost as error:
            console.print(played_again(error))
            rows, seconds = timed(evaluate, weights, evaluation, video_file, watch, 0)
    played = taken(units["agent_steps"], rows)
    console.print(f"{config.task}, weights after {units['env_steps']:,} environment steps")
    console.print(speed(rows, seconds, partial(recipe.suite.units, config)))
    console.print(summary(config, recipe, rows))
    if csv:
        csv.unlink(missing_ok=True)
        columns = score_columns(read_config(run), read_manifest(run))
        columns |= {"source": "evaluate", "evaluation_seed": seed, "evaluation": evaluation, **units}
        CsvLog(csv).append(*(joined(columns, row) for row in rows))
        record_episodes(csv, played, config, run)
        console.print(f"rows   {csv}, to be checked with mlr verify")
    if video_file:
        console.print(f"video  {video_file}")


def record_episodes(csv: Path, played: list[dict], config: Any, run: Path) -> None:
    """Writes what checks the rows of `csv` into a folder beside it: episodes, configuration and manifest."""
    folder = RunFolder(episodes_beside(csv))
    for file in (folder.manifest, folder.episodes):  # of an earlier evaluation
        file.unlink(missing_ok=True)
    manifest = {name: value for name, value in read_manifest(run).items() if name not in ("config_hash", "starts")}
    record_start(replace(config, run_dir=str(folder.path)), manifest)
    CsvLog(folder.episodes).append(*played)
