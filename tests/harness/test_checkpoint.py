import errno
import json
import shutil
import time
from threading import Event

import numpy as np
import pytest
import torch

from harness import checkpoint
from harness.checkpoint import Checkpoints, flatten, require_finite, tensor_digest
from harness.config import ConfigError
from harness.errors import CheckpointError, NotFinite
from harness.run_folder import checkpoint_names

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
        "scalars": {"rate": np.float32(0.1), "count": np.int64(3), "flag": np.bool_(True)},
    }


def saved(folder, *steps):
    checkpoints = Checkpoints(folder, CAPACITY, "hash")
    for step in steps:
        save(checkpoints, step)
    return checkpoints


def save(checkpoints, step):
    checkpoints.save(step, state(step), Rows().get)
    checkpoints.wait()


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
    assert loaded["scalars"] == {"rate": np.float32(0.1), "count": 3, "flag": True}
    assert rows == {i: i for i in range(10)}


def test_copies_are_one_block_of_memory_and_each_save_overwrites_it(tmp_path):
    checkpoints = Checkpoints(tmp_path, CAPACITY, "hash")
    places = []
    for step in (10, 20):
        save(checkpoints, step)
        places.append({tensor.untyped_storage().data_ptr() for tensor in checkpoints._copies.values()})
    assert len(places[0]) == 1 and places[0] == places[1]
    (step, loaded), _, _ = load(tmp_path)
    assert step == 20 and torch.equal(loaded["agent"]["weights"]["a.b"], torch.full((2, 3), 20.0))


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
    save(saved_again, 50)
    save(saved_again, 70)
    assert sorted(path.name for path in (tmp_path / "replay").iterdir()) == [
        f"{a:09d}-{b:09d}.safetensors" for a, b in ((20, 40), (40, 50), (50, 70))
    ]


def test_checkpoints_inside_an_agent_step_do_not_replace_each_other(tmp_path):
    checkpoints, expected = Checkpoints(tmp_path, CAPACITY, "hash"), []
    for steps, made, name in ((11, 3, "000000010+000000003"), (11, 70, "000000010+000000070"), (11, None, "000000011")):
        checkpoints.save(steps, state(made or 0), Rows().get, made)
        checkpoints.wait()
        expected = [*expected, name][-2:]
        assert checkpoint_names(tmp_path) == expected and checkpoints.newest == name
        (step, found), rows, lines = load(tmp_path)
        assert (step, found["agent"]["count"], lines) == (11, made or 0, []) and rows == {i: i for i in range(11)}
    (tmp_path / "000000011" / "state.safetensors").write_bytes(b"")
    (step, found), _, _ = load(tmp_path)
    assert (step, found["agent"]["count"]) == (11, 70)
    (tmp_path / "000000010+000000070").rename(tmp_path / "000000010+000000071")
    with pytest.raises(CheckpointError):
        load(tmp_path)


@pytest.fixture
def disk(monkeypatch):
    """A disk that takes a state when it is told to."""
    ready, write = Event(), checkpoint._write_directory

    def write_when_ready(*arguments):
        assert ready.wait(60)
        write(*arguments)

    monkeypatch.setattr(checkpoint, "_write_directory", write_when_ready)
    return ready


def test_training_goes_on_while_a_copy_is_written(tmp_path, disk):
    parts, rows = {"weights": torch.zeros(5), "finished": [1.0]}, Rows()
    with Checkpoints(tmp_path, CAPACITY, "hash") as checkpoints:
        checkpoints.save(10, parts, rows.get)
        parts["weights"] += 1
        parts["finished"].append(2.0)
        checkpoints.check()
        assert checkpoints.newest == "000000010" and load(tmp_path)[0] is None
        disk.set()
        checkpoints.save(20, parts, rows.get)
    for expected, number in ((parts, "000000020"), ({"weights": torch.zeros(5), "finished": [1.0]}, "000000010")):
        (step, found), _, _ = load(tmp_path)
        assert step == int(number) and torch.equal(found["weights"], expected["weights"])
        assert found["finished"] == expected["finished"]
        shutil.rmtree(tmp_path / number)


@pytest.mark.parametrize("notice", ["check", "wait", "save", "leave"])
def test_a_save_that_fails_is_noticed_later(tmp_path, monkeypatch, notice):
    def refuse(*arguments):
        raise OSError("the disk is full")

    checkpoints = saved(tmp_path, 10)
    monkeypatch.setattr(checkpoint, "_write_directory", refuse)
    with pytest.raises(OSError, match="disk is full"), checkpoints:
        checkpoints.save(20, state(20), Rows().get)
        while notice == "check":
            checkpoints.check()
        if notice == "wait":
            checkpoints.wait()
        if notice == "save":
            checkpoints.save(30, state(30), Rows().get)
    assert load(tmp_path)[0][0] == 10 and not list(tmp_path.glob(".*"))
    checkpoints.wait()  # it was said


def test_a_second_ctrl_c_waits_for_no_disk(tmp_path, disk):
    with pytest.raises(KeyboardInterrupt), Checkpoints(tmp_path, CAPACITY, "hash") as checkpoints:
        checkpoints.save(10, state(10), Rows().get)
        raise KeyboardInterrupt
    disk.set()
    checkpoints.wait()


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def forge(newest, **changes):
    """Changes the manifest and its checksum."""
    manifest = json.loads((newest / "manifest.json").read_text()) | changes
    del manifest["manifest_sha256"]
    edit(newest / "manifest.json", **changes, manifest_sha256=checkpoint._manifest_digest(manifest))


def forge_state(newest, content):
    (newest / "state.safetensors").write_bytes(content)
    forge(newest, state_sha256=checkpoint._digest(newest / "state.safetensors"))


def link(path):
    path.symlink_to(path.rename(path.with_name("elsewhere")))


def put_file(newest):
    shutil.rmtree(newest)
    newest.write_bytes(b"")


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
    "a file": lambda newest, folder: put_file(newest),
    "a link": lambda newest, folder: link(newest),
    "a linked file": lambda newest, folder: link(newest / "state.safetensors"),
    "values of another type": lambda newest, folder: forge(newest, values=[]),
    "versions of another type": lambda newest, folder: forge(newest, versions=[]),
    "no tensors": lambda newest, folder: forge_state(newest, b"PK" * 50),
    "a header for the whole memory": lambda newest, folder: forge_state(
        newest, (5 * 2**20).to_bytes(8, "little") + b"{" + b" " * (5 * 2**20 - 2) + b"}"
    ),
    "a deep manifest": lambda newest, folder: (newest / "manifest.json").write_text("[" * 10**5),
    "a large manifest": lambda newest, folder: (newest / "manifest.json").write_text(f"[{'[],' * 2 * 10**6}[]]"),
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


def test_a_checkpoint_that_this_user_may_not_read_is_never_passed_over(tmp_path, monkeypatch):
    saved(tmp_path, 10, 20)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    opened = checkpoint.Path.open

    def refuse(path, *arguments, **options):
        if path.match("000000020/state.safetensors"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(checkpoint.Path, "open", refuse)
    with pytest.raises(ConfigError, match="000000020/state.safetensors cannot be read: give this user the right"):
        load(tmp_path)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_a_damaged_newer_checkpoint_does_not_displace_the_good_one(tmp_path):
    saved(tmp_path, 10, 20)
    flip(tmp_path / "000000020" / "state.safetensors")
    checkpoints = Checkpoints(tmp_path, CAPACITY, "hash")
    checkpoints.load(Rows().put, lambda line: None)
    save(checkpoints, 15)
    assert sorted(path.name for path in tmp_path.glob("0*")) == ["000000010", "000000015"]
    (step, _), rows, lines = load(tmp_path)
    assert step == 15 and rows == {i: i for i in range(15)} and lines == []


def test_a_leftover_of_a_killed_save_is_no_checkpoint(tmp_path):
    saved(tmp_path, 10)
    (tmp_path / ".000000020.part").mkdir()
    assert load(tmp_path)[0][0] == 10
    saved(tmp_path, 20)
    assert load(tmp_path)[0][0] == 20


def test_what_killed_saves_left_goes_with_the_next_one(tmp_path):
    saved(tmp_path, 10)
    (tmp_path / ".000000015.part").mkdir()
    (tmp_path / "replay" / "000000010-000000015.part").write_bytes(b"")
    checkpoints = Checkpoints(tmp_path, CAPACITY, "hash")
    checkpoints.load(Rows().put, print)
    save(checkpoints, 20)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000010", "000000020", "replay"]
    assert not list((tmp_path / "replay").glob("*.part"))


@pytest.mark.parametrize("put", [put_file, lambda path: link(path)])
def test_whatever_has_a_checkpoints_name_makes_room(tmp_path, put):
    checkpoints = saved(tmp_path, 10, 20)
    put(tmp_path / "000000010")
    save(checkpoints, 30)
    assert sorted(path.name for path in tmp_path.glob("0*")) == ["000000020", "000000030"]
    saved_again = Checkpoints(tmp_path, CAPACITY, "hash")
    saved_again.load(Rows().put, print)
    (tmp_path / "000000040").write_bytes(b"")
    save(saved_again, 40)
    assert load(tmp_path)[0][0] == 40


def test_pieces_that_somebody_removed_are_written_again(tmp_path):
    checkpoints = saved(tmp_path, 10)
    shutil.rmtree(tmp_path / "replay")
    save(checkpoints, 20)
    (step, _), rows, lines = load(tmp_path)
    assert step == 20 and rows == {i: i for i in range(20)} and lines == []


def test_many_pieces_become_one(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "MOST_PIECES", 3)
    saved(tmp_path, 1, 2, 3, 4)
    assert sorted(path.name[10:19] for path in (tmp_path / "replay").glob("000000000-*")) == ["000000001", "000000004"]
    (step, _), rows, lines = load(tmp_path)
    assert step == 4 and rows == {i: i for i in range(4)} and lines == []


def test_a_run_folder_that_was_removed_is_not_made_anew(tmp_path):
    checkpoints = saved(tmp_path / "checkpoints")
    checkpoints._folder = tmp_path / "gone" / "checkpoints"
    with pytest.raises(FileNotFoundError):
        save(checkpoints, 10)
    assert not (tmp_path / "gone").exists()


def test_a_state_with_a_nan_is_found_by_name():
    require_finite(flatten(state(1)))
    with pytest.raises(NotFinite, match="agent/weights/a.b holds"):
        require_finite(flatten(state(float("nan"))))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_value_that_is_no_number_is_found_anywhere(dtype, bad):
    values = torch.linspace(-1, 1, 301, dtype=dtype)
    checkpoint.require_finite({"values": values, "scalar": values[0], "empty": values[:0]})
    for index in (0, 150, 299, 300):
        broken = values.clone()
        broken[index] = bad
        for tensor in (broken, broken[index], broken[:300].view(20, 15).T if index < 300 else broken):
            with pytest.raises(NotFinite, match="^x holds"):
                checkpoint.require_finite({"values": values, "x": tensor})


def test_a_digest_is_of_type_shape_and_values():
    numbers = torch.arange(6.0).reshape(2, 3)
    single = torch.from_numpy(np.broadcast_to(np.float64(3), (1,)).copy(order="K")).as_strided((1,), (0,))
    assert tensor_digest(single) == tensor_digest(torch.tensor([3.0], dtype=torch.float64))
    others = (numbers.T.contiguous(), numbers.double(), numbers + torch.eye(2, 3), torch.zeros(0), single)
    assert len({tensor_digest(tensor) for tensor in (numbers, *others)}) == 6
    assert tensor_digest(numbers) == tensor_digest(numbers.clone())


@pytest.mark.parametrize("leave", ["wait", "check"])
def test_no_writer_is_left_when_its_result_is_known(tmp_path, monkeypatch, leave):
    """torch aborts a process whose interpreter ends while a thread is in its code."""
    end, over = checkpoint.Thread._bootstrap_inner, Event()

    def slow_end(thread):
        end(thread)
        time.sleep(0.2)
        over.set()

    monkeypatch.setattr(checkpoint.Thread, "_bootstrap_inner", slow_end)
    checkpoints = Checkpoints(tmp_path, CAPACITY, "hash")
    checkpoints.save(10, state(10), Rows().get)
    while checkpoints._writing is not None:
        getattr(checkpoints, leave)()
    assert over.is_set()
