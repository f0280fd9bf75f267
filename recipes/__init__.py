"""Recipes: which suite, method and training script belong together. torch is imported where a run begins."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, NamedTuple

import atari.config
import atari.scores
import dmcontrol.config
import dmcontrol.scores
import mwm.config
import mwm.scores
from auxiliaries import SCHEMAS, unread
from harness.command import Command
from harness.command_line import launch
from harness.config import ConfigError
from harness.run_folder import RunFolder, read_config, with_todays_names
from harness.stop import resume_me_at_a_signal

if TYPE_CHECKING:
    import gymnasium
    import torch

    from harness.recipe import Method, Recipe, Suite

LADDER = {"sections": "ladder=resets fills resets"}
COMMANDS = {
    "atari": Command("atari", atari.config.AtariConfig, atari.config.validate, hints=LADDER, sections=SCHEMAS),
    "dmcontrol": Command(
        "dmcontrol",
        dmcontrol.config.DMControlConfig,
        dmcontrol.config.validate,
        hints={"task": "any other task of the suite: domain=D task_name=N"} | LADDER,
        sections=SCHEMAS,
        unread=partial(unread, dmcontrol.config.WITH_AUXILIARY),
        choices={"task": "settings"},
    ),
    "mwm": Command(
        "mwm",
        mwm.config.MWMConfig,
        mwm.config.validate,
        resolvers={"suite_of_task": mwm.config.suite_of_task},
        method="mwm.world_model",
        choices={"world_model": "mwm.world_model"},
        idle={"world_model": mwm.config.IDLE},
    ),
}
SCORES = (atari.scores.SCORES, dmcontrol.scores.SCORES, mwm.scores.SCORES)
SUITE_SCORES = {scores.name: scores for scores in SCORES}
OWN_SUITE = "harness.own_suite:OWN"  # suite of the user's own environment


class Pairing(NamedTuple):
    """A method's command, and what pairs it with suites, as module:object."""

    command: str
    method: str
    suites: dict[str, str]  # by name


METHODS = {
    "rainbow": Pairing("atari", "atari.method:RAINBOW", {"atari": "atari.suite:ATARI"}),
    "sac": Pairing("dmcontrol", "dmcontrol.method:SAC", {"dmcontrol": "dmcontrol.suite:DMCONTROL"}),
    "mwm": Pairing(
        "mwm", "mwm.method:MWM", {"metaworld": "mwm.suite:METAWORLD", "dmcontrol": "mwm.suite:DMCONTROL_PIXELS"}
    ),
}


def command_of(run: str | Path, config: dict) -> Command:
    """The command that the run folder `run` with this configuration is of. Raises ConfigError."""
    method = config.get("method")
    if method not in METHODS:
        raise ConfigError(f"{run} is a run of an unknown method, {method}")
    return COMMANDS[METHODS[method].command]


def load_config(run: str | Path) -> Any:
    """The configuration of a run folder or of a file of weights. Raises ConfigError if it does not fit this version."""
    if os.path.isfile(run):  # Path.is_file raises OSError for a name that is too long
        from harness.weights import read_about  # imports torch

        content = with_todays_names(read_about(Path(run))["config"])
    else:
        content = read_config(run)
    try:
        return command_of(run, content).build(content)
    except ConfigError as error:
        raise ConfigError(f"the configuration of {run} does not fit this version: {error}") from error


def train(name: str, about: str = "", argv: Sequence[str] | None = None) -> int:
    """Exit code of a training script; `about` is what its --help prints first."""
    resume_me_at_a_signal()

    def run(config: Any) -> int:
        recipe = load_recipe(config)  # imports torch, which a refused configuration never needs
        import harness.run

        return harness.run.run(config, recipe)

    return launch(COMMANDS[name], run, about=about, argv=argv)


def load_recipe(config: Any) -> "Recipe":
    """Suite and method of a configuration; imports torch.

    Raises ConfigError, before that, for an environment of the user's own that the method cannot play.
    """
    if config.env:
        from harness.own_environment import require_playable

        require_playable(config)
    from harness.recipe import Recipe

    return Recipe(load_suite(config), load_method(config))


def load_suite(config: Any) -> "Suite":
    return resolve_name(OWN_SUITE if config.env else METHODS[config.method].suites[config.suite])


def load_method(config: Any) -> "Method":
    return resolve_name(METHODS[config.method].method)


def load_agent(run: str | Path, device: "torch.device | str" = "cpu", agent_steps: int | None = None) -> Any:
    """The trained agent of a run folder with its newest weights, or those after `agent_steps`; or of a file of weights.

    Its `act` and `encoder` take observations as the environment gives them. Raises ConfigError if there are none.
    """
    import torch

    config = load_config(run)
    weights = Path(run) if Path(run).is_file() else RunFolder(run).saved_weights(agent_steps)
    return load_method(config).load_trained(config, weights, torch.device(device))


def load_environment(run: str | Path, seed: int = 0) -> "gymnasium.Env":
    """The environment of a run folder's task, as evaluations play it."""
    config = load_config(run)
    return load_recipe(config).suite.make_environment(config, seed, 0, False)
