"""Losses, gradients and whole updates of the released codes."""

import pytest

from tests.golden.auxiliary_curl import replay_curl
from tests.golden.check import DATA, assert_all
from tests.golden.replay import DMCONTROL_AUXILIARIES

FOLDER = DATA / "auxiliaries" / "dmcontrol"


@pytest.mark.parametrize("replay", DMCONTROL_AUXILIARIES, ids=lambda replay: replay.__name__)
def test_matches_the_reference(replay):
    assert_all(replay(FOLDER))


def test_a_contrast_in_slices_matches_the_reference_too(monkeypatch):
    monkeypatch.setattr("dmcontrol.agent.CPU_SLICE", 4)
    assert_all(replay_curl(FOLDER))
