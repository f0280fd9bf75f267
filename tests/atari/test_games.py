import pytest
from ale_py import roms

from atari.games import GAMES, require_game
from harness.config import ConfigError
from harness.report.scores import published


def test_games_are_those_of_the_published_table_and_have_a_rom():
    assert list(GAMES) == list(published("atari"))
    assert all(roms.get_rom_path(game) is not None for game in GAMES)


@pytest.mark.parametrize(
    ("typo", "meant"),
    [("pacmn", "ms_pacman"), ("Pong", "pong"), ("break_out", "breakout"), ("KungFuMaster", "kung_fu_master")],
)
def test_a_typo_gets_the_nearest_name(typo, meant):
    with pytest.raises(ConfigError, match=f"^no game named '{typo}'; did you mean '{meant}'\\?$"):
        require_game(typo)


def test_a_name_like_no_other_gets_the_list():
    with pytest.raises(ConfigError, match="choose one of alien, amidar, .*, up_n_down$"):
        require_game("zzz")


def test_known_games_pass():
    for game in GAMES:
        require_game(game)
