import subprocess
import sys

import pytest
from ale_py import roms

from atari.games import PAPER_GAMES, TWO_PLAYERS, games, require_game
from atari.scores import SCORES
from harness.config import ConfigError
from tests.conftest import ROOT


def test_games_of_the_paper_are_those_of_the_published_table():
    assert PAPER_GAMES == SCORES.tasks


def test_games_are_those_that_ale_py_ships_for_one_player():
    assert sorted([*games(), *TWO_PLAYERS]) == sorted(roms.get_all_rom_ids())
    for game in (*PAPER_GAMES, "tennis"):
        require_game(game)


def test_names_of_games_need_no_emulator():
    code = "import sys; from atari.games import games; print(len(games()) > 100, 'ale_py' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["True", "False"]


@pytest.mark.parametrize(
    ("typo", "meant"),
    [("tenis", "tennis"), ("Pong", "pong"), ("break_out", "breakout"), ("KungFuMaster", "kung_fu_master")],
)
def test_a_typo_gets_the_nearest_name(typo, meant):
    with pytest.raises(ConfigError, match=f"^no game named '{typo}'; did you mean {meant}\\?$"):
        require_game(typo)


def test_a_name_like_no_other_gets_a_list():
    with pytest.raises(ConfigError, match="choose one that ale-py ships, such as alien, amidar, .*, up_n_down$"):
        require_game("zzz")


@pytest.mark.parametrize("game", TWO_PLAYERS)
def test_a_game_for_two_players_is_refused(game):
    with pytest.raises(ConfigError, match=f"^{game} is a game for two players"):
        require_game(game)
