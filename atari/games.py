"""The 26 games of Atari-100k, by the names that the command line, the emulators and the score files share."""

from difflib import get_close_matches
from importlib.util import find_spec

from harness.config import ConfigError, one_of, require

NAMES = """
    alien amidar assault asterix bank_heist battle_zone boxing breakout chopper_command crazy_climber demon_attack
    freeway frostbite gopher hero jamesbond kangaroo krull kung_fu_master ms_pacman pong private_eye qbert road_runner
    seaquest up_n_down
"""
GAMES = tuple(NAMES.split())
EMULATORS = ("ale", "atari_py")


def require_game(game: str) -> None:
    """Raises ConfigError, with the nearest name if there is one, unless `game` is one of the 26."""
    if game in GAMES:
        return
    nearest = get_close_matches(game.lower(), GAMES, n=1)
    advice = f"did you mean '{nearest[0]}'?" if nearest else f"choose one of {', '.join(GAMES)}"
    raise ConfigError(f"no game named '{game}'; {advice}")


def require_emulator(emulator: str, sticky_actions: float) -> None:
    """Raises ConfigError unless `emulator` is known, installed, and can play with these sticky actions."""
    one_of("emulator", emulator, EMULATORS)
    require(
        emulator == "ale" or sticky_actions == 0,
        f"emulator=atari_py plays without sticky actions only: environment.sticky_actions={sticky_actions} must be 0",
    )
    require(
        emulator != "atari_py" or find_spec("atari_py") is not None,
        "emulator=atari_py needs the package atari-py: pip install -e '.[atari-py]', which builds it "
        "(g++, cmake, zlib1g-dev; with cmake 4 set CMAKE_POLICY_VERSION_MINIMUM=3.5)",
    )
