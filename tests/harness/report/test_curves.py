import cv2

from harness.logs import CsvLog
from harness.report.curves import draw_learning_curve
from harness.run_folder import RunFolder


def draw(path, prediction: bool):
    folder = RunFolder(path)
    path.mkdir()
    for step in (100, 200, 300):
        row = {"agent_steps": step, "env_steps": step, "train/episode_return": -20.0 + step / 50}
        CsvLog(folder.metrics).append(row | ({"train/mlr_cosine_hidden": 1 - 1 / step} if prediction else {}))
    for score in (-19.0, -15.0):
        CsvLog(folder.evaluations).append({"agent_steps": 300, "env_steps": 300, "score": score})
    return cv2.imread(str(draw_learning_curve(folder, "pong", {"random policy": -20.7})))


def test_a_run_with_an_auxiliary_gets_a_second_panel(tmp_path):
    with_prediction, without = draw(tmp_path / "mlr", True), draw(tmp_path / "none", False)
    assert with_prediction.shape[0] > without.shape[0]
    for picture in (with_prediction, without):
        red = (abs(picture.astype(int) - (0x00, 0x5E, 0xD5)).sum(-1) < 30).sum()  # blue, green, red
        assert red > 50, "the evaluation is not drawn"


def test_a_run_without_a_single_row_still_has_a_picture(tmp_path):
    assert cv2.imread(str(draw_learning_curve(RunFolder(tmp_path), "pong", {}))) is not None
