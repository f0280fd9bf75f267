"""A whole Atari run: parts from the configuration, training, evaluation, curve and video."""

import hashlib
import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from ale_py import roms
from rich.console import Console

from atari.agent import RainbowAgent, TrainedAgent, read_run_config
from atari.config import AtariConfig, validate_device
from atari.cost import cpu_flops_per_second, update_flops
from atari.environment import AtariEnv
from atari.replay import SequenceReplay
from mlr.config import ConfigError
from mlr.results.curves import draw_learning_curve
from mlr.results.scores import human_normalised, project_version, score_columns
from mlr.training.checkpoint import CheckpointError
from mlr.training.evaluation import Evaluate, Watch, is_finished, play_episodes
from mlr.training.loggers import CsvLog
from mlr.training.loop import DONE, Parts, train, updates_due
from mlr.training.progress import RunProgress
from mlr.training.run_folder import RunFolder, check_run, read_config, read_manifest, record_start
from mlr.training.seeding import derive_seed
from mlr.training.video import video_writer

FRAMES_PER_SECOND = 60  # of the emulator


def run(config: AtariConfig) -> int:
    """Trains, evaluates and draws one run; goes on with an interrupted one. Returns the exit code.

    Raises ConfigError if the folder, a checkpoint or the memory does not allow it; then nothing was written.
    """
    console = Console(highlight=False, soft_wrap=True)
    device = choose_device(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    folder = check_run(config)
    if is_finished(config, folder):
        console.print(f"{folder.path} is finished: delete it or choose another run_dir to train again")
        report_results(config, folder, console)
        return DONE
    try:
        parts = make_parts(config, device)
    except (MemoryError, RuntimeError) as error:
        # On the CPU torch has no class of its own for a refused allocation.
        if isinstance(error, RuntimeError) and not re.search("memory|alloc|overflow", str(error)):
            raise
        raise ConfigError(f"this run does not fit on {device}: {str(error).splitlines()[0]}") from error

    def started() -> None:
        record_start(config, manifest(config))
        describe(config, parts, folder, device, console)

    try:
        code = train(config, folder, parts, console, started)
    except CheckpointError as error:
        raise ConfigError(str(error)) from error
    if code == DONE:
        report_results(config, folder, console)
    return code


def make_parts(config: AtariConfig, device: torch.device) -> Parts:
    environment = make_environment(config, config.seed, index=0, training=True)
    size = config.environment.image_size
    return Parts(
        agent=RainbowAgent(config, int(environment.action_space.n), device),
        environment=environment,
        replay=SequenceReplay(
            config.replay, config.agent, config.mlr.seq_len, (size, size), config.environment.frame_stack, device
        ),
        evaluate=make_evaluate(config, device),
        units=lambda agent_steps: units(config, agent_steps),
    )


def make_environment(config: AtariConfig, seed: int, index: int, training: bool) -> AtariEnv:
    horizon = config.environment.horizon if training else config.evaluation.horizon
    return AtariEnv(config.game, config.environment, seed=seed, index=index, training=training, horizon=horizon)


def manifest(config: AtariConfig) -> dict:
    return {
        "benchmark": config.benchmark,
        "game": config.game,
        "rom_md5": rom_md5(config.game),
        "version": project_version(),
    }


def rom_md5(game: str) -> str:
    return hashlib.md5(Path(roms.get_rom_path(game)).read_bytes()).hexdigest()


def make_evaluate(config: AtariConfig, device: torch.device) -> Evaluate:
    """An evaluation as a function of weights, index and the run's seed: one row per episode."""

    def evaluate(weights: Path, index: int, video: Path | None, watch: Watch) -> list[dict]:
        seed = derive_seed(config.seed, "evaluation", index)
        agent = TrainedAgent(config, weights, device)
        fps = FRAMES_PER_SECOND / config.environment.action_repeat
        with video_writer(video, fps, enlarge=2) if video is not None else nullcontext() as film:
            episodes = play_episodes(
                epsilon_greedy(agent, config.evaluation.epsilon, np.random.default_rng(seed)),
                lambda episode: make_environment(config, seed, episode, training=False),
                config.evaluation.episodes,
                config.evaluation.environments,
                film,
                watch,
            )
        return [
            {
                "episode": i,
                "score": episode.score,
                "human_normalised": human_normalised(config.game, episode.score),
                "episode_agent_steps": episode.agent_steps,
            }
            for i, episode in enumerate(episodes)
        ]

    return evaluate


def epsilon_greedy(agent: TrainedAgent, epsilon: float, generator: np.random.Generator) -> Callable:
    def act(observations: np.ndarray) -> np.ndarray:
        greedy = agent.act(observations)
        explore = generator.random(len(greedy)) < epsilon
        return np.where(explore, generator.integers(agent.actions, size=len(greedy)), greedy)

    return act


def units(config: AtariConfig, agent_steps: int) -> dict[str, int]:
    """An environment step is an agent step on Atari; each shows `action_repeat` emulator frames."""
    return {
        "agent_steps": agent_steps,
        "env_steps": agent_steps,
        "frames": agent_steps * config.environment.action_repeat,
    }


def choose_device(name: str) -> torch.device:
    """Raises ConfigError for a device that this machine does not have."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    validate_device(name)
    device = torch.device(name)
    if device.type == "cuda" and not (torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()):
        raise ConfigError(f"device={name}: torch finds no such GPU; install a CUDA build of torch or use device=cpu")
    return device


def describe(config: AtariConfig, parts: Parts, folder: RunFolder, device: torch.device, console: Console) -> None:
    """Prints what will run and what it takes."""
    agent, replay = parts.agent, parts.replay
    updates = sum(
        updates_due(step, config.loop.learning_starts, config.loop.replay_ratio) for step in range(config.agent_steps)
    )
    trained = sum(parameter.numel() for group in agent.optimizer.param_groups for parameter in group["params"])
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    console.print(
        f"{config.game}  seed {config.seed}  aux {config.aux}  fidelity {config.fidelity}  preset {config.preset}\n"
        f"run folder   {folder.path}\n"
        f"device       {name}\n"
        f"length       {config.agent_steps:,} agent steps, {updates:,} updates of {config.agent.batch_size} sequences\n"
        f"networks     {trained / 1e6:.2f} M trained parameters, "
        f"convolutions {'-'.join(map(str, config.agent.encoder.channels))}, head {config.agent.hidden}\n"
        f"replay       {replay.nbytes / 1e9:.3f} GB for {config.replay.capacity:,} steps"
    )
    if device.type == "cpu":
        hours = updates * update_flops(config, agent.actions) / cpu_flops_per_second() / 3600
        if hours >= 1 / 60:
            length = f"{hours:,.0f} hours" if hours >= 2 else f"{hours * 60:.0f} minutes"
            advice = "; a GPU, or preset=cpu, is what you want" if hours > 48 else ""
            console.print(f"cost         at least {length} on this CPU for the updates' arithmetic alone{advice}")


def report_results(config: AtariConfig, folder: RunFolder, console: Console) -> None:
    """Draws the learning curve and names what the run wrote."""
    curve = draw_learning_curve(folder, config.game)
    rows = [row for row in CsvLog(folder.evaluations).read() if row["agent_steps"] == str(config.agent_steps)]
    console.print(f"{summary(config.game, rows)}\nrows   {folder.evaluations}\ncurve  {curve}")
    for video in sorted(folder.media.glob("episode_*.mp4"))[-1:]:
        console.print(f"video  {video}")


def evaluate_run(run: Path, episodes: int, seed: int, device: str, video: bool, csv: Path | None) -> None:
    """Plays `episodes` with the newest weights of a run folder; prints the score, writes CSV and video if asked."""
    console = Console(highlight=False, soft_wrap=True)
    config = read_run_config(run)
    if csv and not csv.absolute().parent.is_dir():
        raise ConfigError(f"--csv {csv}: there is no folder {csv.absolute().parent}")
    environments = min(config.evaluation.environments, episodes)
    evaluation = replace(config.evaluation, episodes=episodes, environments=environments)
    config = replace(config, seed=seed, evaluation=evaluation)
    folder = RunFolder(run)
    weights = folder.newest_weights()
    agent_steps = int(weights.stem)
    video_file = folder.media / f"evaluation_{weights.stem}_seed_{seed}.mp4" if video else None
    with RunProgress(0, 0, console) as progress:
        watch = partial(progress.evaluation, episodes=episodes)
        rows = make_evaluate(config, choose_device(device))(weights, 0, video_file, watch)
    console.print(f"{config.game}, weights of agent step {agent_steps:,}\n{summary(config.game, rows)}")
    if csv:
        csv.unlink(missing_ok=True)
        columns = score_columns(read_config(run), read_manifest(run))
        columns |= {"source": "evaluate", "evaluation_seed": seed, **units(config, agent_steps)}
        CsvLog(csv).append(*({**columns, **row} for row in rows))
        console.print(f"rows   {csv}")
    if video_file:
        console.print(f"video  {video_file}")


def summary(game: str, rows: list[dict]) -> str:
    scores = np.array([float(row["score"]) for row in rows])
    return (
        f"score  {scores.mean():.1f} +- {scores.std():.1f} over {len(scores)} episodes, "
        f"human-normalised {human_normalised(game, scores.mean()):.3f}"
    )
