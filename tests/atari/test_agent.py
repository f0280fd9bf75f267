from tests.golden.atari_f_g import replay_f, replay_g
from tests.golden.check import DATA, assert_all


def test_schedules_and_counts_match_the_reference():
    assert_all(replay_f(DATA / "atari"))


def test_whole_updates_match_the_reference():
    assert_all(replay_g(DATA / "atari"))
