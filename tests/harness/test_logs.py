import pytest

from harness.config import ConfigError
from harness.logs import CsvLog


def test_a_new_key_adds_a_column_to_old_rows(tmp_path):
    log = CsvLog(tmp_path / "metrics.csv")
    log.append({"agent_steps": 1})
    log.append({"agent_steps": 2, "loss": 0.5}, {"agent_steps": 3, "loss": 0.25})
    assert log.read() == [
        {"agent_steps": "1", "loss": ""},
        {"agent_steps": "2", "loss": "0.5"},
        {"agent_steps": "3", "loss": "0.25"},
    ]


def test_reopening_keeps_columns_and_drops_what_came_after(tmp_path):
    path = tmp_path / "metrics.csv"
    CsvLog(path).append(*({"agent_steps": step, "loss": step / 2} for step in (10, 20, 30)))
    with path.open("a") as file:
        file.write("4")  # a row that a kill left unfinished
    log = CsvLog(path, keep_until=20)
    assert [row["agent_steps"] for row in log.read()] == ["10", "20"]
    log.append({"agent_steps": 25, "loss": 1})
    assert CsvLog(path).read()[-1] == {"agent_steps": "25", "loss": "1"}


def test_a_last_row_cut_within_its_last_value_is_none(tmp_path):
    path = tmp_path / "metrics.csv"
    CsvLog(path).append({"agent_steps": 10, "loss": 0.5}, {"agent_steps": 20, "loss": 0.25})
    path.write_text(path.read_text()[:-2])  # "0.2" is a number too
    assert [row["agent_steps"] for row in CsvLog(path).read()] == ["10"]
    log = CsvLog(path, keep_until=20)
    log.append({"agent_steps": 20, "loss": 0.25})
    assert [row["loss"] for row in log.read()] == ["0.5", "0.25"]


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"name,price\n1,2\n", b"agent_steps\n1\n\xff\n"])
def test_a_file_that_is_something_else_is_left_alone(tmp_path, content):
    path = tmp_path / "metrics.csv"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="move it away"):
        CsvLog(path, keep_until=10)
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.csv"] and path.read_bytes() == content
