"""The table of the emulators' games and differences, and the notes that follow from it."""

import subprocess
import sys
from importlib.util import find_spec

import pytest

from atari.emulators import PICTURES_DIFFER, REWARDS_DIFFER, make_emulator, rom_md5
from atari.games import PAPER_GAMES
from studies.emulators import DOCUMENT, first_steps
from tests.conftest import ROOT

needs_atari_py = pytest.mark.skipif(find_spec("atari_py") is None, reason="atari-py is not installed")


def rows_of_the_document():
    lines = DOCUMENT.read_text().splitlines()
    return {cells[0]: cells for cells in ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines) if cells}


def test_the_document_has_the_facts_of_every_game():
    rows = rows_of_the_document()
    assert set(PAPER_GAMES) <= rows.keys()
    for game in PAPER_GAMES:
        emulator = make_emulator("ale", game, sticky_actions=0.0, seed=1)
        emulator.reset()
        emulator.act(0)
        facts = [rom_md5(game, "ale"), str(len(emulator.actions)), str(emulator.ale.lives())]
        assert rows[game][1:4] == facts


def test_notes_agree_with_the_document():
    rows = rows_of_the_document()
    for game in PAPER_GAMES:
        pictures, rewards, lives = (cell != "-" for cell in rows[game][6:])
        assert (game in REWARDS_DIFFER) == (rewards or lives), game
        assert (game in PICTURES_DIFFER) == (pictures and not rewards and not lives), game


def test_without_atari_py_the_study_prints_the_facts_alone(tmp_path):
    program = (
        "import atari.games as g, studies.emulators as s, sys, pathlib\n"
        "g.find_spec = lambda name: None\n"
        f"s.DOCUMENT = pathlib.Path({str(tmp_path / 'emulators.md')!r})\n"
        "sys.argv = ['emulators.py']\nassert s.main() == 0 and not s.DOCUMENT.exists()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 28 and "pip install" in done.stderr


@needs_atari_py
def test_the_first_difference_is_found():
    assert first_steps("seaquest", 100, seed=1)["lives"] == int(rows_of_the_document()["seaquest"][8])
    assert first_steps("pong", 50, seed=1) == {"end": None, "pictures": None, "rewards": None, "lives": None}
