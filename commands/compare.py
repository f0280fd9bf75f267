"""Shows agents of one task side by side: scores, a video and a picture.

mlr compare RUN random                     # compares with uniformly random actions
mlr compare RUN random results/agents/NAME OTHER_RUN --episodes 10

All play the same episodes, each with the newest weights of its run.
"""

from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from harness.command_line import Options, at_least, refusing
from harness.config import ConfigError, require
from harness.errors import NotFinite
from harness.exit_codes import DONE
from harness.run_folder import RunFolder
from recipes import load_config, load_recipe
from recipes.changes import method_label

RANDOM = "random"


@refusing(ConfigError, NotFinite, OSError)
def main(arguments: list[str] | None = None) -> int:
    parser = Options(__doc__)
    parser.add_argument("run", type=Path, help="run folder, whose learning curve is shown")
    parser.add_argument("others", nargs="+", help=f"{RANDOM}, or other runs of the same task")
    parser.add_argument("--episodes", type=at_least(1), help="as many as the first run's evaluations, if not given")
    parser.add_argument("--seed", type=int, default=0, help="of the episodes' starts and of what exploration there is")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="folder of video and picture: by default the media folder of the run")
    options = parser.parse_args(arguments)
    runs = [options.run, *(options.run if other == RANDOM else Path(other) for other in options.others)]
    configs = [load_config(run) for run in runs]
    weights = [RunFolder(run).saved_weights() for run in runs]  # refused before torch is imported
    for run, config in zip(runs, configs, strict=True):
        same = (config.suite, config.task) == (configs[0].suite, configs[0].task)
        require(same, f"{run} plays {config.task}, {options.run} plays {configs[0].task}: compare runs of one task")
    from harness.parts import choose_device
    from harness.side_by_side import write_side_by_side

    device, episodes = choose_device(options.device), options.episodes or configs[0].evaluation.episodes
    agents = []
    names = ["", *options.others]
    for name, label, config, file in zip(names, labels(runs, configs), configs, weights, strict=True):
        agents.append(play(label, config, file, name == RANDOM, episodes, options.seed, device))
        print(agents[-1], flush=True)
    folder = RunFolder(options.run)
    print(*write_side_by_side(agents, folder.evaluations, options.out or folder.media), sep="\n")
    return DONE


def labels(runs: list[Path], configs: list[Any]) -> list[str]:
    """Names of the runs' methods; seed and experiment follow where another run has the same name so far."""
    found = [method_label(config) for config in configs]
    for key in ("seed", "experiment"):
        named = {label: {run for run, own in zip(runs, found, strict=True) if own == label} for label in found}
        found = [
            f"{label}, {key} {getattr(config, key)}" if len(named[label]) > 1 else label
            for label, config in zip(found, configs, strict=True)
        ]
    return found


def play(label: str, config: Any, weights: Path, at_random: bool, episodes: int, seed: int, device: Any) -> Any:
    """Plays the episodes of an agent, or of random actions in its environment; returns a `Shown`."""
    from harness.parts import evaluate_weights
    from harness.side_by_side import Shown

    recipe, at_once = load_recipe(config), min(config.evaluation.environments, episodes)
    config = replace(config, seed=seed, evaluation=replace(config.evaluation, episodes=episodes, environments=at_once))
    steps = recipe.suite.units(config, int(weights.stem))["env_steps"]
    label = f"{label}, {steps:,} steps"
    if at_random:
        label = "random actions"
        recipe = replace(recipe, method=replace(recipe.method, make_player=partial(make_random, recipe.suite)))
    rows = evaluate_weights(config, recipe, device, weights, 0, None, lambda finished: None)
    return Shown(label, config, recipe.suite, rows)


def make_random(suite: Any, config: Any, weights: Path, seed: int, device: Any) -> Any:
    """A player of uniformly random actions."""
    with closing(suite.make_environment(config, seed, 0, False)) as environment:
        space = environment.action_space
    space.seed(seed)
    return lambda observations, first: [space.sample() for _ in observations]
