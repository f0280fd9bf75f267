"""Shows a clip of a game or task with its mask as PNG and GIF, or what a world model reconstructs and predicts.

mlr visualize game=ms_pacman
mlr visualize task=cartpole_swingup mlr.mask.ratio=0.7 mlr.mask.strategy=spatial
mlr visualize --run RUN
mlr visualize --run RUN --beside OTHER     # runs of mlr train mwm, such as those of two stems

Without --run the actions are random, and settings of the training scripts may follow. With --run the trained
agent plays, and the picture also shows the cosine of its predictions and their targets. A run of Masked World
Models has figures of its own: masks and reconstructions, open-loop predictions, and their error over the horizon.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from harness.command_line import Options
from harness.config import ConfigError, require
from harness.messages import refuse
from harness.output import lasting_output
from harness.overrides import check_single
from harness.run_folder import RunFolder
from recipes import COMMANDS, load_config, load_recipe

PICTURES = Path("runs/pictures")
CLIPS = 16  # the liveliest is shown, the cosines are over all of them
SKIPPED = 80  # steps of play before the first clip: many games begin with a pause


@lasting_output()
def main(arguments: Sequence[str] | None = None) -> int:
    parser = Options(__doc__)
    parser.add_argument("--run", type=Path, help="folder of a run with MLR, or with Masked World Models")
    parser.add_argument("--beside", type=Path, help="another run with Masked World Models, whose masks stand beside")
    parser.add_argument("--out", type=Path, help=f"folder of the pictures: {PICTURES}, or the media folder of the run")
    parser.add_argument("--seed", type=int, help="of play, mask and augmentation; by default the configuration's")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="game=NAME or task=NAME, and other settings")
    try:
        options = parser.parse_intermixed_args(arguments)
        seed = [] if options.seed is None else [f"seed={options.seed}"]
        if options.run is None:
            config = compose([*options.overrides, *seed])
            out = options.out or PICTURES
        else:
            require(not options.overrides, f"--run has settings of its own: leave out {' '.join(options.overrides)}")
            config = read_run(options.run, options.seed)
            out = options.out or RunFolder(options.run).media
        is_world_model = config.method == "mwm"
        if not is_world_model:
            require_pictures(config)
        if options.beside is not None:
            beside = read_run(options.beside, None)
            both = is_world_model and beside.method == "mwm"
            require(both, "--beside takes a run with Masked World Models, and sets its masks beside those of --run")
        existing = next(path for path in (out, *out.absolute().parents) if path.exists())
        require(existing.is_dir(), f"--out {out}: {existing} is a file")
        if is_world_model:
            from studies.world_model import show  # imports torch

            print(*show(config, options.run, options.beside, out), sep="\n")
        else:
            visualize(config, options.run, out)
    except ConfigError as error:
        return refuse(error)
    return 0


def require_pictures(config) -> None:
    """Raises ConfigError for a setting that these pictures do not show."""
    section = config.auxiliary_section
    require(
        hasattr(section, "mask"),
        f"auxiliary={config.auxiliary} has no mask to show: it takes auxiliary=mlr; mlr evaluate RUN --video films any "
        "agent",
    )
    mask = section.mask
    require(mask.strategy != "none", "mlr.mask.strategy=none hides nothing: choose another to see a mask")
    require(mask.space == "pixel", f"mlr.mask.space={mask.space} hides no pixels: only masks of pixels are drawn")
    require(section.target == "latent", f"mlr.target={section.target} has no target branch: latent is drawn")


def compose(overrides: Sequence[str]):
    """The configuration that a training script would make of these settings."""
    check_single(overrides)
    keys = {override.partition("=")[0] for override in overrides}
    commands = ["atari"] * ("game" in keys) + ["dmcontrol"] * bool(keys & {"task", "domain"})
    require(len(commands) == 1, "say what to show: game=NAME for Atari, or task=NAME for DMControl")
    return COMMANDS[commands[0]].resolve(overrides)


def read_run(run: Path, seed: int | None):
    """The configuration of a run folder."""
    config = load_config(run)
    RunFolder(run).saved_weights()  # refused before torch is imported
    return config if seed is None else replace(config, seed=seed)


def visualize(config, run: Path | None, out: Path) -> None:
    """Plays, draws and writes; prints what it wrote."""
    import torch

    from harness.recipe import Spaces
    from harness.weights import load_trained, read_auxiliary
    from studies import clips, pictures
    from studies.play import random_player

    recipe, device = load_recipe(config), torch.device("cpu")
    if run is None:  # a decoder of full size takes seconds to make, and nothing is predicted
        config = replace(config, mlr=replace(config.mlr, decoder=replace(config.mlr.decoder, depth=0)))
    with closing(recipe.suite.make_environment(config, config.seed, 0, False)) as environment:
        agent = recipe.method.make_agent(config, Spaces.of(environment), device)
        if run is None:
            player, name = random_player(environment, config.seed), "random actions"
        else:
            agent_steps, tensors = read_auxiliary(RunFolder(run), config)
            weights = RunFolder(run).saved_weights(agent_steps)
            load_trained(agent, weights, tensors)
            player = recipe.method.make_player(config, weights, config.seed, device)
            name = f"the agent after {agent_steps:,} steps"
        played = clips.play_clips(environment, player, config.mlr.seq_len, CLIPS, SKIPPED)
    objective = agent.auxiliary.objective
    mask = objective.mask()
    title = f"{config.task}: {config.mlr.seq_len} steps in a row, played by {name}"
    if config.preset != "full":
        title += f" (preset={config.preset})"
    frames = played.frames[:, clips.liveliest(played)]
    channels = frames.shape[1] // config.environment.frame_stack
    clip = clips.make_clip(objective, frames, mask, config.mlr.mask, channels, title)
    agreement = clips.measure_agreement(objective, played, mask) if run else None
    strategies = clips.make_strategies(objective, frames, channels, config.seed)
    print(title)
    if agreement:
        print(agreement.report())
    for path in (
        pictures.draw_clip(out / f"{config.task}_clip.png", clip, agreement),
        pictures.animate(out / f"{config.task}_clip.gif", clip),
        pictures.draw_strategies(out / f"{config.task}_strategies.png", strategies),
    ):
        print(path)
