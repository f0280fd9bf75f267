"""Names of games that the command line, the emulators and the score files share."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from harness.config import ConfigError, require
from harness.files import installation
from harness.messages import advice

NAMES = """
    alien amidar assault asterix bank_heist battle_zone boxing breakout chopper_command crazy_climber demon_attack
    freeway frostbite gopher hero jamesbond kangaroo krull kung_fu_master ms_pacman pong private_eye qbert road_runner
    seaquest up_n_down
"""
PAPER_GAMES = tuple(NAMES.split())  # the 26 of Atari-100k
TWO_PLAYERS = ("combat", "joust", "maze_craze", "warlords")  # the emulator ends the process that loads one
EMULATORS = ("ale", "atari_py")


@cache
def games() -> tuple[str, ...]:
    """Every game for one player whose ROM ale-py ships; ale-py itself is not imported."""
    (package,) = find_spec("ale_py").submodule_search_locations
    names = (path.stem for path in (Path(package) / "roms").glob("*.bin"))
    return tuple(sorted(name for name in names if name not in TWO_PLAYERS))


def game_settings(task: str) -> list[str]:
    """Settings that choose a game by its name in folders and tables."""
    return [f"game={task}"]


def require_game(game: str) -> None:
    """Raises ConfigError, with the nearest name if there is one, unless ale-py ships `game` for one player."""
    if game in games():
        return
    if game in TWO_PLAYERS:
        raise ConfigError(f"{game} is a game for two players: choose another, such as pong")
    others = f"choose one that ale-py ships, such as {', '.join(PAPER_GAMES)}"
    raise ConfigError(f"no game named '{game}'; {advice(game, games(), others)}")


def require_emulator(emulator: str, sticky_actions: float) -> None:
    """Raises ConfigError unless `emulator` is installed, and can play with these sticky actions."""
    require(
        emulator == "ale" or sticky_actions == 0,
        "environment.emulator=atari_py plays without sticky actions only: "
        f"environment.sticky_actions={sticky_actions} must be 0",
    )
    require(
        emulator != "atari_py" or find_spec("atari_py") is not None,
        f"environment.emulator=atari_py needs the package atari-py: {installation('atari-py')}, which builds it "
        "(g++, cmake, zlib1g-dev; with cmake 4 set CMAKE_POLICY_VERSION_MINIMUM=3.5)",
    )
