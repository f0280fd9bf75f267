"""A whole run of any recipe: training, then its score, curve and video."""

from contextlib import closing

import torch
from rich.console import Console

from harness.checkpoint import flatten, require_finite
from harness.config import ConfigError
from harness.errors import CheckpointError, Miscounted, NotFinite
from harness.evaluation import is_finished, summary
from harness.exit_codes import DISK_FAILED, DONE, FAILED
from harness.files import project_version
from harness.header import describe, notes
from harness.logs import CsvLog
from harness.loop import Parts
from harness.memory import keep_freed_memory
from harness.messages import complain
from harness.parts import choose_device, make_parts_that_fit
from harness.precision import set_precision
from harness.recipe import Recipe
from harness.report.curves import draw_run
from harness.run_folder import RunFolder, check_run, checkpoint_names, read_manifest, record_failure, record_start
from harness.stop import StopRequest
from harness.trackers import tracked
from harness.training import train


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
