import csv
import json
import os
import shutil
import struct
import subprocess
import sys
import time
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread

import pytest
from rich.console import Console

from harness.config import ConfigError
from harness.inspection import inspect
from harness.logs import CsvLog
from harness.mirror import evaluation_rows, metrics_rows, start_delay
from harness.run import run
from harness.run_folder import RunFolder, record_start
from harness.trackers import Tracker, chosen, tracked
from tests.conftest import ROOT, make_config, make_dmcontrol_config
from tests.recipes import ATARI
from tests.waiting import HANG, until

KEY = "0" * 40
PATIENT = f"logger.finish_timeout_seconds={HANG}"
UNITS = {"agent_steps", "env_steps", "frames"}


def tensorboard_scalars(folder):
    """{tag: {agent step: value}}, as TensorBoard reads it; a step that is there twice fails."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder.path / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    found = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert all(len(dict(points)) == len(points) for points in found.values())
    return {tag: dict(points) for tag, points in found.items()}


def wandb_records(path):
    """The records of a W&B transaction log: after 7 bytes, blocks of 32 KiB with pieces (checksum, length, kind)."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, piece = path.read_bytes(), 7, b""
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        if position + 7 + length > len(data):  # cut off
            return
        piece += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(piece)
            piece = b""


def wandb_logs(folder):
    return sorted(folder.path.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns)


def wandb_history(path):
    """{W&B's step: row} without W&B's own keys and without videos."""
    rows = {}
    for record in wandb_records(path):
        if record.WhichOneof("record_type") == "history":
            items = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            numbers = {key: value for key, value in items.items() if not key.startswith(("_", "eval/video"))}
            rows[record.history.step.num] = numbers
    return rows


def only(records, kind):
    return next(getattr(record, kind) for record in records if record.WhichOneof("record_type") == kind)


def by_tag(rows):
    """What TensorBoard should have of these rows, in its 32 bits."""
    return {
        key: {row["agent_steps"]: pytest.approx(row[key], rel=1e-6) for row in rows if key in row}
        for key in {key for row in rows for key in row}
    }


def test_trackers_show_what_the_csv_files_hold_and_the_run_is_the_same(tmp_path, finished_run, capsys):
    config = make_config(
        tmp_path / "run", "logger.tensorboard=true", "logger.wandb=offline", "logger.tags=[a,b]", PATIENT
    )
    imported = set(sys.modules)
    assert run(config, ATARI) == 0
    assert not {"wandb", "tensorboard"} & (set(sys.modules) - imported)  # in the run's own process, chosen or not
    folder = RunFolder(tmp_path / "run")
    assert [line[:2] for line in inspect(folder.path)] == [line[:2] for line in inspect(finished_run)]
    metrics, evaluations = metrics_rows(folder), evaluation_rows(folder, 2)
    assert len(metrics) == 6 and len(evaluations) == 1
    expected = by_tag(metrics) | by_tag(evaluations)
    assert tensorboard_scalars(folder) == {tag: points for tag, points in expected.items() if tag not in UNITS}
    [log] = wandb_logs(folder)
    assert wandb_history(log) == dict(enumerate(pytest.approx(row) for row in [*metrics, *evaluations]))
    with folder.metrics.open() as file:
        columns = {key if "/" in key or key in UNITS else f"time/{key}" for key in next(csv.reader(file))}
    assert columns == {key for row in metrics for key in row} | {"train/episode_return"}
    records = list(wandb_records(log))
    started = only(records, "run")
    assert (started.project, started.run_group) == ("mlr", "atari/pong/mlr-released-tiny")
    assert list(started.tags) == ["pong", "mlr", "released", "tiny", "a", "b"]
    assert started.display_name == "mlr-pong-seed_1"
    settings = {item.key: json.loads(item.value_json) for item in started.config.update}
    assert settings["mlr"]["tau"] == config.mlr.tau and settings["config_hash"] and "logger" not in settings
    summary = {
        item.key: json.loads(item.value_json)
        for record in records
        if record.WhichOneof("record_type") == "summary"
        for item in record.summary.update
    }
    assert summary["score"] == summary["score_120_env_steps"] == evaluations[0]["eval/score"]
    assert only(records, "exit").exit_code == 0
    output = capsys.readouterr().out
    assert output.count("wandb:") == output.count("tensorboard:") == 1
    assert f"wandb sync --yes {folder.path}/wandb/offline-run-*" in output


def test_the_configuration_the_video_and_the_settings_are_shown(tmp_path, finished_run):
    """In TensorBoard as its own reader finds them, in W&B as files of the run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    shutil.copytree(finished_run, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    config = make_config(folder.path, "logger.tensorboard=true", "logger.wandb=offline", PATIENT)
    manifest = json.loads(folder.manifest.read_text())
    manifest["starts"][0]["command"] = ["train", "mlr.tau=0.05", "loop.replay_ratio=1"]
    folder.manifest.write_text(json.dumps(manifest))
    followed(folder, config, lambda: None)
    events = EventAccumulator(str(folder.path / "tensorboard")).Reload()
    (text,) = events.Tensors("configuration")
    lines = text.tensor_proto.string_val[0].decode().splitlines()
    assert [line.removeprefix("    ") for line in lines] == folder.config.read_text().splitlines()
    (image,) = events.Images("eval/video")
    assert image.encoded_image_string[:4] == b"GIF8" and image.step == config.agent_steps
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert set(HParamsPluginData.FromString(content).session_start_info.hparams) == {
        *("task", "seed", "auxiliary", "fidelity", "preset", "mlr.tau", "loop.replay_ratio")
    }
    (log,) = wandb_logs(folder)
    assert list(log.parent.glob("files/media/videos/eval/*.mp4"))


def make_folder(path, *overrides):
    """A run folder as it is when training starts, and its configuration."""
    config = make_config(path, "logger.send_every_seconds=0.1", PATIENT, *overrides)
    record_start(config, {})
    return RunFolder(path), config


def metrics_row(step, loss):
    return {"agent_steps": step, "env_steps": step, "frames": 4 * step, "train/loss": loss}


def add_metrics(folder, *rows):
    CsvLog(folder.metrics).append(*(metrics_row(step, loss) for step, loss in rows))


def add_evaluation(folder, step, *scores):
    units = {"agent_steps": step, "env_steps": step, "frames": 4 * step}
    CsvLog(folder.evaluations).append(
        *({"method": "mlr", **units, "episode": i, "score": score} for i, score in enumerate(scores))
    )


def followed(folder, config, write):
    with tracked(config, folder, [120], Console(soft_wrap=True)):
        write()


def test_a_resumed_run_is_one_run_and_its_rows_are_there_once(tmp_path):
    folder, config = make_folder(tmp_path / "run", "logger.tensorboard=true", "logger.wandb=offline")

    def first():
        add_metrics(folder, (20, 1.0), (40, 2.0), (60, 3.0))
        add_evaluation(folder, 40, 5.0, 7.0)

    def second():
        add_metrics(folder, (60, 3.5), (80, 4.0))
        add_evaluation(folder, 60, 1.0, 3.0)

    followed(folder, config, first)
    time.sleep(1)  # W&B names its folders by the second
    CsvLog(folder.metrics, keep_until=50)
    followed(folder, config, second)
    first_log, second_log = wandb_logs(folder)
    ids = {only(wandb_records(log), "run").run_id for log in (first_log, second_log)}
    assert ids == {json.loads((folder.path / "wandb/sent.json").read_text())["id"]}
    # In which order rows of one look at the files come does not matter to W&B, but none may share a number.
    history = wandb_history(first_log) | wandb_history(second_log)
    assert list(history) == [0, 1, 2, 3, 4, 5]
    assert [row["agent_steps"] for row in history.values()] == [20, 40, 40, 60, 60, 80]
    assert [row.get("train/loss") for row in history.values()] == [1.0, 2.0, None, 3.0, None, 4.0]
    assert [row["eval/score"] for row in history.values() if "eval/score" in row] == [6.0, 2.0]
    scalars = tensorboard_scalars(folder)
    assert scalars["train/loss"] == {20: 1.0, 40: 2.0, 60: 3.5, 80: 4.0}
    assert scalars["eval/score"] == {40: 6.0, 60: 2.0}


def test_a_killed_run_leaves_no_process_and_says_that_it_failed(tmp_path):
    folder, config = make_folder(tmp_path / "run", "logger.wandb=offline")
    add_metrics(folder, (20, 1.0))
    logger = json.dumps(asdict(config.logger))
    command = [sys.executable, "-m", "harness.mirror", "wandb", str(folder.path), logger, "120"]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert "offline" in process.stdout.readline()
    services = [pid for pid in processes() if parent_of(pid) == process.pid]
    assert services
    process.stdin.close()  # what a kill of the run does
    assert process.stdout.read() == "" and process.wait(HANG) == 0
    [log] = wandb_logs(folder)
    assert only(wandb_records(log), "exit").exit_code == 255
    until(lambda: not set(services) & processes())


def handed_over(folder):
    """Rows that W&B has been given; None before there can be any."""
    file = folder.path / "wandb/sent.json"
    return json.loads(file.read_text())["order"] if file.is_file() else None


def processes():
    return {int(name) for name in os.listdir("/proc") if name.isdigit()}


def parent_of(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except OSError:
        return None


class Refusing(BaseHTTPRequestHandler):
    def do_POST(self):
        self.send_response(401)
        self.end_headers()
        self.wfile.write(b'{"errors": [{"message": "permission denied"}]}')

    do_GET = do_POST

    def log_message(self, *arguments):
        """Nothing."""


class Hanging(Refusing):
    released = Event()

    def do_POST(self):
        self.released.wait()

    do_GET = do_POST


class Answering(BaseHTTPRequestHandler):
    """As much of a W&B service as the real client needs to send rows: it knows one run."""

    protocol_version = "HTTP/1.1"
    rows: list[dict]  # history it has got
    hanging: Event  # from then on it answers nothing

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.hanging.is_set():
            Hanging.released.wait()
        answer = {}
        if self.path.endswith("graphql"):
            query = json.loads(body)
            answer = {"data": self.answer(query["query"], query.get("variables", {}))}
        elif self.path.endswith("file_stream"):
            history = json.loads(body).get("files", {}).get("wandb-history.jsonl")
            if history:
                self.rows[history["offset"] :] = [json.loads(line) for line in history["content"]]
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_POST

    def answer(self, query, variables):
        project = {"id": "p", "name": "mlr", "entity": {"id": "e", "name": "somebody"}}
        bucket = {"id": "b", "name": variables.get("name"), "displayName": "d", "config": "{}"}
        if "RunResumeStatus" in query:
            tail = json.dumps([json.dumps(row) for row in self.rows[-1:]])
            counts = {"logLineCount": 0, "historyLineCount": len(self.rows), "eventsLineCount": 0}
            tails = {"historyTail": tail, "eventsTail": "[]", "summaryMetrics": "{}", "wandbConfig": '{"t": 1}'}
            return {"model": project | {"bucket": bucket | counts | tails if self.rows else None}}
        if "UpsertBucket" in query:
            return {"upsertBucket": {"bucket": bucket | {"project": project}, "inserted": not self.rows}}
        if "CreateRunFiles" in query:
            place = f"http://{self.headers['Host']}/upload"
            files = [{"name": name, "uploadUrl": place} for name in variables["files"]]
            return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
        return {}

    def log_message(self, *arguments):
        """Nothing."""


@pytest.fixture
def service(request, monkeypatch, tmp_path):
    """A W&B service of one's own; the account of whoever runs the tests is out of sight."""
    for name in ("HOME", "NETRC", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "nobody"))
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    Answering.rows, Answering.hanging = [], Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), request.param)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
    yield server
    Hanging.released.set()
    server.shutdown()
    server.server_close()
    Hanging.released.clear()


def lines_of(folder, config, capsys):
    """What a run with a second of training prints."""
    followed(folder, config, lambda: (add_metrics(folder, (20, 1.0)), time.sleep(1)))
    return capsys.readouterr().out.splitlines()


ONLINE = ("logger.wandb=online", "logger.start_spread_seconds=0")


@pytest.mark.parametrize("service", [Refusing], indirect=True)
@pytest.mark.parametrize("reason", ["no key", "refused"])
def test_a_login_that_fails_costs_one_line_and_goes_on_offline(reason, service, tmp_path, monkeypatch, capsys):
    if reason == "no key":
        monkeypatch.delenv("WANDB_API_KEY")
    folder, config = make_folder(tmp_path / "run", *ONLINE)
    [line] = lines_of(folder, config, capsys)
    assert line.startswith("wandb: ") and "wandb sync" in line
    assert ("No API key" if reason == "no key" else "401") in line
    [log] = wandb_logs(folder)
    assert wandb_history(log) == {0: metrics_row(20, 1.0)}


@pytest.mark.parametrize("service", [Hanging], indirect=True)
def test_a_service_that_hangs_costs_one_line_and_the_allowed_seconds(service, tmp_path, capsys):
    folder, config = make_folder(tmp_path / "run", *ONLINE, "logger.finish_timeout_seconds=1")
    followed(folder, config, lambda: until(lambda: handed_over(folder) is not None))
    [line] = capsys.readouterr().out.splitlines()
    assert line == "wandb: not done within 1 s of the run's end; metrics.csv has all of it"
    assert json.loads((folder.path / "wandb/sent.json").read_text())["id"]  # the next start is the same W&B run


@pytest.mark.parametrize("service", [Hanging], indirect=True)
def test_a_service_that_does_not_answer_in_time_is_done_without(service, tmp_path, capsys):
    folder, config = make_folder(tmp_path / "run", *ONLINE, "logger.start_timeout_seconds=0.5")
    [line] = lines_of(folder, config, capsys)
    assert "goes on offline" in line
    [log] = wandb_logs(folder)
    assert wandb_history(log) == {0: metrics_row(20, 1.0)}


def sent(service):
    return [(row["_step"], row["agent_steps"]) for row in service.RequestHandlerClass.rows]


@pytest.mark.parametrize("service", [Answering], indirect=True)
def test_a_resumed_online_run_sends_each_row_once(service, tmp_path, capsys):
    folder, config = make_folder(tmp_path / "run", *ONLINE)
    followed(folder, config, lambda: add_metrics(folder, (20, 1.0), (40, 2.0), (60, 3.0)))
    assert sent(service) == [(0, 20), (1, 40), (2, 60)]
    CsvLog(folder.metrics, keep_until=50)
    followed(folder, config, lambda: add_metrics(folder, (60, 3.0), (80, 4.0)))
    assert sent(service) == [(0, 20), (1, 40), (2, 60), (3, 80)]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and len(set(lines)) == 1 and "/somebody/mlr/runs/" in lines[0]


@pytest.mark.parametrize("service", [Answering], indirect=True)
def test_what_a_service_that_began_to_hang_has_not_got_is_kept_on_disk(service, tmp_path, capsys):
    folder, config = make_folder(tmp_path / "run", *ONLINE, "logger.finish_timeout_seconds=20")

    def write():
        add_metrics(folder, (20, 1.0))
        until(lambda: handed_over(folder))
        Answering.hanging.set()
        add_metrics(folder, (40, 2.0))

    followed(folder, config, write)
    started, ended = capsys.readouterr().out.splitlines()
    assert "/somebody/mlr/runs/" in started and "wandb sync --yes --include-online" in ended
    assert sent(service) in ([], [(0, 20)])
    [log] = folder.path.glob("wandb/run-*/*.wandb")
    assert [row["agent_steps"] for row in wandb_history(log).values()] == [20, 40]
    assert str(log.parent) in ended
    Answering.hanging.clear()
    patient = replace(config, logger=replace(config.logger, finish_timeout_seconds=HANG))
    followed(folder, patient, lambda: add_metrics(folder, (60, 3.0)))
    assert sent(service) == [(0, 20), (1, 40), (2, 60)]  # without that log


@pytest.mark.parametrize("name", ["wandb", "tensorboard"])
def test_a_missing_package_costs_one_line(name, tmp_path, monkeypatch, capsys):
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / f"{name}.py").write_text("raise ModuleNotFoundError('none', name=__name__)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "without"))
    folder, config = make_folder(tmp_path / "run", "logger.wandb=offline", "logger.tensorboard=true")
    lines = lines_of(folder, config, capsys)
    assert len(lines) == 2
    assert f"{name}: no package {name}: pip install -e '.[track]'; metrics.csv goes on without" in lines


def test_a_tracker_that_cannot_write_costs_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "json.py").write_text("raise SystemExit(3)  # a module of the current folder is nobody's")
    monkeypatch.chdir(tmp_path)
    folder, config = make_folder(tmp_path / "run", "logger=tensorboard")
    (folder.path / "tensorboard").write_text("in the way")
    [line] = lines_of(folder, config, capsys)
    assert line.startswith("tensorboard: ") and line.endswith("metrics.csv goes on without")


def test_a_python_that_does_not_start_costs_one_line(tmp_path, monkeypatch, capsys):
    folder, config = make_folder(tmp_path / "run", "logger=tensorboard")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nothing"))
    [line] = lines_of(folder, config, capsys)
    assert line.startswith("tensorboard: cannot start")


def test_an_error_of_the_run_is_passed_on(tmp_path):
    folder, config = make_folder(tmp_path / "run", "logger.wandb=offline")

    def fail():
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        followed(folder, config, fail)
    [log] = wandb_logs(folder)
    assert only(wandb_records(log), "exit").exit_code == 1


def test_a_second_ctrl_c_does_not_wait_for_trackers(tmp_path, monkeypatch):
    folder, config = make_folder(tmp_path / "run", "logger.wandb=offline")
    monkeypatch.setattr(Tracker, "wait", lambda *arguments: pytest.fail("it waits"))

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        followed(folder, config, interrupt)

    def kinds():
        return {record.WhichOneof("record_type") for log in wandb_logs(folder) for record in wandb_records(log)}

    until(lambda: "exit" in kinds())  # it ends by itself


def test_no_tracker_is_chosen_by_itself_and_none_imports_the_other(tmp_path):
    assert chosen(make_config(tmp_path / "run").logger) == []
    assert chosen(make_config(tmp_path / "run", "logger=all").logger) == ["tensorboard", "wandb"]
    code = "import sys, harness.mirror; print({'torch', 'wandb', 'tensorboard'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"


def test_online_runs_start_at_moments_of_their_own(tmp_path):
    logger = make_config(tmp_path / "run", "logger=wandb").logger
    delays = [start_delay(logger, RunFolder(tmp_path / f"seed_{seed}")) for seed in range(64)]
    assert 0 <= min(delays) < 5 and 25 < max(delays) < 30 and len(set(delays)) > 40
    assert delays[0] == start_delay(logger, RunFolder(tmp_path / "seed_0"))
    assert start_delay(replace(logger, wandb="offline"), RunFolder(tmp_path)) == 0


@pytest.mark.parametrize("make", [make_config, make_dmcontrol_config])
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("logger=wandbb", "did you mean wandb?"),
        ("logger.wandb=maybe", "not one of off, offline, online"),
        ("logger.tags=['']", "logger.tags.0= must have 1 or more characters"),
        (f"logger.tags=[{'a' * 65}]", "must have at most 64 characters"),
        ("logger.project=a/b", "none of"),
        ("logger.project=''", "1 to 128 characters"),
        (f"logger.group={'a' * 129}", "at most 128"),
        ("logger.send_every_seconds=0", "above 0"),
        ("logger.start_spread_seconds=-1", "at least 0"),
    ],
)
def test_wrong_settings_are_refused(make, override, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        make(tmp_path / "run", override)


def test_rows_of_a_finished_run_are_sent_by_the_same_command(tmp_path, finished_run):
    """Also with a tracker that the run had not when it trained."""
    folder = RunFolder(shutil.copytree(finished_run, tmp_path / "run"))
    assert run(make_config(folder.path, "logger.wandb=offline", PATIENT), ATARI) == 0
    [log] = wandb_logs(folder)
    assert len(wandb_history(log)) == len(metrics_rows(folder)) + len(evaluation_rows(folder, 2))
    assert run(make_config(folder.path, "logger.wandb=offline", PATIENT), ATARI) == 0
    assert wandb_logs(folder) == [log]
