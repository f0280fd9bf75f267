import pytest

from tests.golden.check import DATA, assert_all
from tests.golden.mwm_agent import replay_real
from tests.golden.replay import MWM, run


@pytest.mark.parametrize("replay", MWM, ids=lambda replay: replay.__name__)
def test_the_official_modules_values(replay):
    assert_all(run((replay,), DATA / "mwm"))


def test_initial_weights_at_the_paper_s_sizes():
    assert_all(replay_real(DATA / "mwm"))
