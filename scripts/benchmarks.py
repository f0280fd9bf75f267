"""The benchmarks by name, for scripts that serve both."""

from atari.config import AtariConfig
from atari.config import validate as validate_atari
from dmcontrol.config import DMControlConfig
from dmcontrol.config import validate as validate_dmcontrol
from harness.command_line import Command
from harness.config import ConfigError

COMMANDS = {
    "atari": Command("atari", AtariConfig, validate_atari),
    "dmcontrol": Command("dmcontrol", DMControlConfig, validate_dmcontrol),
}
TASK_KEYS = {"atari": "game", "dmcontrol": "task"}  # what chooses one of a benchmark's tasks


def command_of(run: str, config: dict) -> Command:
    """The command that the run folder `run` with this configuration is of. Raises ConfigError."""
    name = config.get("benchmark")
    if name not in COMMANDS:
        raise ConfigError(f"{run} is a run of an unknown benchmark, {name}")
    return COMMANDS[name]


def load_benchmark(name: str):
    """What the benchmark's runs consist of; imports torch."""
    if name == "atari":
        from atari.training import ATARI as benchmark
    else:
        from dmcontrol.training import DMCONTROL as benchmark
    return benchmark
