import cv2
import numpy as np
import pytest

from harness.video import video_writer


def test_a_video_holds_the_frames_enlarged(tmp_path):
    path = tmp_path / "media" / "episode.mp4"
    with video_writer(path, fps=15, enlarge=2) as film:
        for level in (0, 100, 200):
            film(np.full((30, 40, 3), level, np.uint8))
        assert not path.exists()
    video = cv2.VideoCapture(str(path))
    assert video.get(cv2.CAP_PROP_FPS) == 15
    frames = [video.read()[1] for _ in range(3)]
    assert [frame.shape for frame in frames] == [(60, 80, 3)] * 3
    assert [round(float(frame.mean()) / 100) for frame in frames] == [0, 1, 2]
    assert not video.read()[0]


def test_an_interrupted_video_does_not_appear(tmp_path):
    with pytest.raises(RuntimeError), video_writer(tmp_path / "episode.mp4", fps=15, enlarge=1) as film:
        film(np.zeros((16, 16, 3), np.uint8))
        raise RuntimeError
    assert not (tmp_path / "episode.mp4").exists()
