"""Losses, gradients and whole updates of the released codes."""

import pytest

from tests.golden.auxiliary_curl import replay_curl
from tests.golden.auxiliary_spr import replay_cycdm
from tests.golden.check import DATA, assert_all
from tests.golden.replay import ATARI_AUXILIARIES, DMCONTROL_AUXILIARIES

FOLDER = DATA / "auxiliaries" / "dmcontrol"
CASES = [(replay, "atari") for replay in ATARI_AUXILIARIES] + [
    (replay, "dmcontrol") for replay in DMCONTROL_AUXILIARIES
]


@pytest.mark.parametrize("replay, suite", CASES, ids=lambda value: getattr(value, "__name__", value))
def test_matches_the_reference(replay, suite):
    assert_all(replay(DATA / "auxiliaries" / suite))


@pytest.mark.parametrize("replay, size", [(replay_curl, 4), (replay_cycdm, 4)])
def test_a_loss_in_slices_matches_the_reference_too(replay, size, monkeypatch):
    monkeypatch.setattr("dmcontrol.agent.CPU_SLICE", size)
    assert_all(replay(FOLDER))
