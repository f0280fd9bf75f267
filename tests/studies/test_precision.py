"""studies/precision.py, which measures what less precise products change."""

import csv

import torch

from studies.precision import main, tf32


def test_tf32_keeps_ten_bits_and_rounds_to_the_nearest():
    """Halves go to the even neighbour; bias and sums stay in full."""
    step = 2.0**-10
    values = torch.tensor([1.0, 1 + step, 1 + step / 2, 1 + 1.5 * step, 1 + 0.51 * step, -1 - 1.5 * step, 0.0])
    expected = [1.0, 1 + step, 1.0, 1 + 2 * step, 1 + step, -1 - 2 * step, 0.0]
    with tf32():
        assert (torch.eye(7) @ values[:, None]).flatten().tolist() == expected
        layer = torch.nn.Linear(1, 1)
        with torch.no_grad():
            layer.weight.fill_(1.0)
            layer.bias.fill_(2.0**-12)
        assert layer(values[2:3, None]).item() == 1 + 2.0**-12
        assert (values * 1.0).tolist() == values.tolist()


def test_the_less_precise_the_more_it_changes(tmp_path, capsys):
    out = tmp_path / "effects.csv"
    settings = ["preset=tiny", "--suite", "atari", "--seeds", "1", "--steps", "100", "--updates", "1"]
    assert main([*settings, "--out", str(out)]) == 0
    with out.open() as file:
        rows = {(row["precision"], row["quantity"]): row for row in csv.DictReader(file)}
    assert "| gradient of encoder |" in capsys.readouterr().out
    quantities = {quantity for _, quantity in rows}
    assert {"rl_loss", "aux/loss", "gradient of encoder", "gradient of decoder"} <= quantities
    for row in rows.values():
        assert 0 < float(row["relative_difference"]) < 0.5
    changes = [float(rows[kind, "gradient of decoder"]["relative_difference"]) for kind in ("tf32", "bf16")]
    assert changes[0] < changes[1]
    assert float(rows["bf16", "gradient of decoder"]["cosine"]) > 0.99


def test_wrong_arguments_are_one_line(capsys):
    for arguments in (["--seeds", "0"], ["preset=none", "--suite", "atari"]):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
