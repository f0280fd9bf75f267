import shutil

import numpy as np

from tests.golden import replay
from tests.golden.check import DATA


def test_a_wrong_value_is_shown_and_ends_with_1(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(replay, "ATARI", (replay.atari_f_g.replay_f,))
    monkeypatch.setattr(replay, "DMCONTROL", ())
    assert replay.main([]) == 0
    assert "3 of 3 quantities agree" in capsys.readouterr().out
    shutil.copytree(DATA / "atari", tmp_path, dirs_exist_ok=True)
    path = tmp_path / "f_schedules.npz"
    with np.load(path) as file:
        arrays = dict(file)
    arrays["beta_after_iteration"][-1] += 0.01
    np.savez(path, **arrays)
    assert replay.main(["--atari", str(tmp_path)]) == 1
    output = capsys.readouterr().out
    assert "off" in output and "2 of 3 quantities agree" in output


def test_nothing_to_compare_is_a_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(replay, "ATARI", (replay.atari_f_g.replay_f,))
    monkeypatch.setattr(replay, "DMCONTROL", ())
    assert replay.main(["--atari", str(tmp_path)]) == 1
