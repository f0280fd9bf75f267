"""The 26 games of Atari-100k, by the names that the command line, the emulator and the score files share."""

from difflib import get_close_matches

from mlr.config import ConfigError

NAMES = """
    alien amidar assault asterix bank_heist battle_zone boxing breakout chopper_command crazy_climber demon_attack
    freeway frostbite gopher hero jamesbond kangaroo krull kung_fu_master ms_pacman pong private_eye qbert road_runner
    seaquest up_n_down
"""
GAMES = tuple(NAMES.split())


def require_game(game: str) -> None:
    """Raises ConfigError, with the nearest name if there is one, unless `game` is one of the 26."""
    if game in GAMES:
        return
    nearest = get_close_matches(game.lower(), GAMES, n=1)
    advice = f"did you mean '{nearest[0]}'?" if nearest else f"choose one of {', '.join(GAMES)}"
    raise ConfigError(f"no game named '{game}'; {advice}")
