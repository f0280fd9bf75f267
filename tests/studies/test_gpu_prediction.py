"""The prediction of an update's time on a GPU, from recorded operations at tiny sizes."""

import pytest

from harness.operations import run_operations
from recipes import COMMANDS, load_recipe
from studies.gpu_prediction import ROWS, SUITES, TASKS, load_spaces, predict, record

RATES = {"bytes_per_second": 1.0, "seconds_per_kernel": 1.0}
RATES["flops_per_second"] = {"bf16": {"product": 1.0, "forward": 1.0, "input": 1.0, "weight": 1.0}}
PRODUCTS = ("convolutions, forward", "convolutions, backward", "products of linear layers")


@pytest.mark.parametrize("suite", SUITES)
def test_operations_are_those_of_torch_s_counter_and_fused_ways_move_less(suite):
    config = COMMANDS[suite].resolve([TASKS[suite], "preset=tiny", "device=cpu"])
    plain, fused = (predict(record(suite, "tiny", "mlr", fused), "bf16", RATES) for fused in (False, True))
    counted = run_operations(load_recipe(config).method, config, load_spaces(suite, config), {"update": 1})
    assert sum(plain[row] for row in PRODUCTS) == pytest.approx(counted)
    assert plain.keys() == fused.keys() == set(ROWS) and min(plain[row] for row in ROWS[:-1]) > 0
    assert plain[ROWS[-1]] == 0 > fused[ROWS[-1]] > -fused["starts of kernels"]  # one stream hides nothing
    for row in ("crops and brightness", "casts to bf16", "biases and ReLUs", "starts of kernels"):
        assert fused[row] < plain[row]
    # DMControl's auxiliary step has a rate that changes: no shadows
    assert (fused["Adam, norms, momentum copies"] < plain["Adam, norms, momentum copies"]) == (suite == "atari")
