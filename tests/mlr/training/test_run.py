import pytest
import torch

from atari.training import ATARI
from mlr.config import ConfigError
from mlr.training.run import choose_device, run
from tests.conftest import make_config


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_devices_without_a_gpu():
    assert choose_device("auto").type == choose_device("cpu").type == "cpu"
    with pytest.raises(ConfigError, match="CUDA build"):
        choose_device("cuda")


def test_a_run_that_does_not_fit_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match="does not fit"):
        run(make_config(tmp_path / "run", "replay.capacity=1000000000000"), ATARI)
    assert not list(tmp_path.iterdir())
