import json

import numpy as np
import pytest
import torch

from mlr.training.checkpoint import Checkpoints, tensor_digest
from mlr.training.errors import CheckpointError

CAPACITY = 25


class Rows:
    """A replay of numbers: step s holds s."""

    def __init__(self):
        self.loaded = {}

    def get(self, start, stop):
        return {"values": torch.arange(start, stop)}

    def put(self, start, rows):
        self.loaded |= {start + i: int(value) for i, value in enumerate(rows["values"])}


def state(number):
    return {
        "agent": {"weights": {"a.b": torch.full((2, 3), float(number))}, "count": number, "empty": {}},
        "generator": {"state": {"inc": 2**100}, "key": np.arange(3, dtype=np.int64)},
        "flags": torch.tensor([True, False]),
        "names": ["x", None],
    }


def saved(folder, *steps):
    checkpoints = Checkpoints(folder, CAPACITY, "hash")
    for step in steps:
        checkpoints.save(step, state(step), Rows().get)
    return checkpoints


def load(folder, config_hash="hash"):
    rows, lines = Rows(), []
    loaded = Checkpoints(folder, CAPACITY, config_hash).load(rows.put, lines.append)
    return loaded, rows.loaded, lines


def test_round_trip(tmp_path):
    saved(tmp_path, 10)
    (step, loaded), rows, lines = load(tmp_path)
    assert step == 10 and lines == []
    assert torch.equal(loaded["agent"]["weights"]["a.b"], torch.full((2, 3), 10.0))
    assert loaded["agent"]["count"] == 10
    assert loaded["generator"]["state"]["inc"] == 2**100
    assert loaded["generator"]["key"].tolist() == [0, 1, 2]
    assert loaded["flags"].dtype == torch.bool and loaded["names"] == ["x", None]
    assert rows == {i: i for i in range(10)}


def test_no_checkpoint_is_none(tmp_path):
    assert load(tmp_path / "absent")[0] is None


def test_pieces_hold_what_is_new_and_old_ones_go(tmp_path):
    saved(tmp_path, 10, 20, 40)
    assert sorted(path.name for path in tmp_path.glob("0*")) == ["000000020", "000000040"]
    _, rows, _ = load(tmp_path)
    assert {step for step in rows if step >= 40 - CAPACITY} == set(range(15, 40))
    assert all(step == value for step, value in rows.items())
    names = sorted(path.name for path in (tmp_path / "replay").iterdir())
    assert names == [f"{a:09d}-{b:09d}.safetensors" for a, b in ((0, 10), (10, 20), (20, 40))]
    saved_again = Checkpoints(tmp_path, CAPACITY, "hash")
    saved_again.load(Rows().put, print)
    saved_again.save(50, state(50), Rows().get)
    saved_again.save(70, state(70), Rows().get)
    assert sorted(path.name for path in (tmp_path / "replay").iterdir()) == [
        f"{a:09d}-{b:09d}.safetensors" for a, b in ((20, 40), (40, 50), (50, 70))
    ]


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


DAMAGES = {
    "flipped bit": lambda newest, folder: flip(newest / "state.safetensors"),
    "truncated": lambda newest, folder: (newest / "state.safetensors").write_bytes(b"xx"),
    "missing file": lambda newest, folder: (newest / "state.safetensors").unlink(),
    "no manifest": lambda newest, folder: (newest / "manifest.json").unlink(),
    "manifest no JSON": lambda newest, folder: (newest / "manifest.json").write_text("{"),
    "manifest a list": lambda newest, folder: (newest / "manifest.json").write_text("[]"),
    "newer schema": lambda newest, folder: edit(newest / "manifest.json", schema=99),
    "another step": lambda newest, folder: edit(newest / "manifest.json", agent_steps=15),
    "no pieces": lambda newest, folder: edit(newest / "manifest.json", pieces=[]),
    "no values": lambda newest, folder: edit(newest / "manifest.json", values={}),
    "renamed": lambda newest, folder: newest.rename(folder / "000000021"),
    "damaged piece": lambda newest, folder: flip(folder / "replay" / "000000010-000000020.safetensors"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_older_one_used(tmp_path, damage):
    saved(tmp_path, 10, 20)
    DAMAGES[damage](tmp_path / "000000020", tmp_path)
    (step, _), rows, lines = load(tmp_path)
    assert step == 10 and rows == {i: i for i in range(10)}
    assert len(lines) == 1 and "00000002" in lines[0] and "\n" not in lines[0]


def test_nothing_usable_is_an_error(tmp_path):
    saved(tmp_path, 10)
    flip(tmp_path / "000000010" / "state.safetensors")
    with pytest.raises(CheckpointError, match="no usable checkpoint"):
        load(tmp_path)
    with pytest.raises(CheckpointError, match="no usable checkpoint"):
        load(tmp_path, config_hash="another")


def test_a_damaged_newer_checkpoint_does_not_displace_the_good_one(tmp_path):
    saved(tmp_path, 10, 20)
    flip(tmp_path / "000000020" / "state.safetensors")
    checkpoints = Checkpoints(tmp_path, CAPACITY, "hash")
    checkpoints.load(Rows().put, lambda line: None)
    checkpoints.save(15, state(15), Rows().get)
    assert sorted(path.name for path in tmp_path.glob("0*")) == ["000000010", "000000015"]
    (step, _), rows, lines = load(tmp_path)
    assert step == 15 and rows == {i: i for i in range(15)} and lines == []


def test_a_leftover_of_a_killed_save_is_no_checkpoint(tmp_path):
    saved(tmp_path, 10)
    (tmp_path / ".000000020.part").mkdir()
    assert load(tmp_path)[0][0] == 10
    saved(tmp_path, 20)
    assert load(tmp_path)[0][0] == 20


def test_a_digest_is_of_type_shape_and_values():
    numbers = torch.arange(6.0).reshape(2, 3)
    single = torch.from_numpy(np.broadcast_to(np.float64(3), (1,)).copy(order="K")).as_strided((1,), (0,))
    assert tensor_digest(single) == tensor_digest(torch.tensor([3.0], dtype=torch.float64))
    others = (numbers.T.contiguous(), numbers.double(), numbers + torch.eye(2, 3), torch.zeros(0), single)
    assert len({tensor_digest(tensor) for tensor in (numbers, *others)}) == 6
    assert tensor_digest(numbers) == tensor_digest(numbers.clone())
