"""Evaluation of a run folder after its training."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from harness.config import ConfigError, require
from harness.episodes import taken
from harness.errors import WorkerLost
from harness.evaluation import joined, played_again, speed, summary, timed
from harness.logs import CsvLog
from harness.parts import choose_device, evaluate_weights
from harness.progress import RunProgress
from harness.recipe import Recipe
from harness.report.scores import score_columns
from harness.run_folder import RunFolder, episodes_beside, read_config, read_manifest, record_start


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
    tables = [table.resolve() for table in (folder.metrics, folder.evaluations, folder.episodes)]
    require(csv is None or csv.resolve() not in tables, f"--csv {csv} is a table of the run itself: name another file")
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
    for file in (folder.manifest, folder.episodes):  # files of an earlier evaluation
        file.unlink(missing_ok=True)
    manifest = {name: value for name, value in read_manifest(run).items() if name not in ("config_hash", "starts")}
    record_start(replace(config, run_dir=str(folder.path)), manifest)
    CsvLog(folder.episodes).append(*played)
