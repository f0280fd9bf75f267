"""The MLR objective on the Atari networks against the reference file."""

from tests.golden.atari_d import replay_d
from tests.golden.check import DATA, assert_all


def test_reference_mlr_loss():
    assert_all(replay_d(DATA / "atari"))
