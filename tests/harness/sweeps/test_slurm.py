"""A job and the queue without SLURM; tests/test_sweep_slurm.py has it."""

import os
import pickle
import threading
from pathlib import Path

import pytest

from harness.config import ConfigError
from harness.sweeps.attempt import Outcome
from harness.sweeps.config import read_sweep_config
from harness.sweeps.record import note, read_events
from harness.sweeps.slurm import Job, job_of, queue, submit, this_job
from harness.sweeps.status import read_status
from tests.harness.sweeps.test_attempt import FINISH, make_run
from tests.waiting import until

CONFIG = read_sweep_config(["slurm.gpus=0"])


def test_a_job_attempts_its_runs_and_can_be_sent_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    runs = [make_run(tmp_path, FINISH, name) for name in ("a", "b")]
    job = pickle.loads(pickle.dumps(Job(CONFIG)))
    assert job(runs) == [Outcome("done")] * 2
    assert [read_events(run)[0]["job"] for run in runs] == ["12_3"] * 2
    assert job.checkpoint(runs) is None, "nothing is left to do"


def test_a_job_that_is_warned_stops_its_runs_and_goes_back_to_the_queue(tmp_path):
    run = make_run(tmp_path, "signal.signal(15, lambda *_: sys.exit(75)); open('ready', 'w'); time.sleep(60)")
    job = Job(CONFIG)
    thread = threading.Thread(target=job, args=([run],))
    thread.start()
    until((Path(run.run_dir) / "ready").exists)
    delayed = job.checkpoint([run])
    thread.join()
    assert [event["event"] for event in read_events(run)] == ["started", "ended"]
    assert read_events(run)[1]["code"] == 75
    pickle.dumps(delayed)
    assert delayed.args == ([run],)


def test_only_runs_that_were_stopped_go_back_to_the_queue(tmp_path):
    body = "signal.signal(15, lambda *_: sys.exit(75)); open('ready', 'w'); time.sleep(600)"
    endless = make_run(tmp_path, body, "endless")
    runs = [make_run(tmp_path, FINISH, "done"), make_run(tmp_path, "sys.exit(2)", "failing"), endless]
    note(runs[1], "submitted", job="7_0")
    job = Job(CONFIG)
    thread = threading.Thread(target=job, args=(runs,))
    thread.start()
    until(lambda: all(any(event["event"] == "ended" for event in read_events(run)) for run in runs[:2]))
    until((Path(endless.run_dir) / "ready").exists)
    assert read_status(runs[1], {"7_0": "RUNNING"}).state == "failed", "its job goes on with the others"
    assert job.checkpoint(runs).args == ([endless],)
    thread.join()


def test_a_warning_before_the_work_began_loses_nothing(tmp_path):
    run = make_run(tmp_path, FINISH)
    assert Job(CONFIG).checkpoint([run]).args == ([run],)


def test_the_queue_is_read_by_job_names(tmp_path, monkeypatch):
    program = tmp_path / "squeue"
    program.write_text("#!/bin/sh\necho '12_0 RUNNING'\necho '12_1 PENDING'\necho '15 COMPLETING'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert queue() == {"12_0": "RUNNING", "12_1": "PENDING", "15": "COMPLETING"}
    program.write_text("#!/bin/sh\necho 'slurm_load_jobs error: no contact' >&2\nexit 1\n")
    with pytest.raises(ConfigError, match="no contact"):
        queue()
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match="no squeue"):
        queue()


@pytest.mark.parametrize("count", [1, 3])
def test_what_slurm_does_not_take_leaves_nothing(count, tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    for name, text in (("srun", "exit 0"), ("sbatch", "echo 'sbatch: error: invalid account' >&2; exit 1")):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    folder = tmp_path / "slurm"
    folder.mkdir()
    (folder / "earlier.pkl").write_text("")
    runs = [make_run(tmp_path, FINISH, f"run_{i}") for i in range(count)]
    with pytest.raises(ConfigError, match="invalid account"):
        submit(runs, read_sweep_config([f"slurm.folder={folder}"]))
    assert [path.name for path in folder.iterdir()] == ["earlier.pkl"]
    assert not any(read_events(run) for run in runs)


def test_the_last_submission_counts(tmp_path):
    run = make_run(tmp_path, "")
    assert job_of([]) is None
    note(run, "submitted", job="12_0")
    note(run, "submitted", job="13_4")
    assert job_of(read_events(run)) == "13_4"


def test_outside_a_job_there_is_no_name(monkeypatch):
    for name in ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    assert this_job() is None


@pytest.mark.parametrize(
    "setting",
    ["slurm.gpus=-1", "slurm.memory_gb=0", "slurm.memory_gb=inf", "slurm.cpus=0", "gpus=0,,1", "slurm=1"],
)
def test_settings_that_cannot_be_are_refused(setting):
    with pytest.raises(ConfigError):
        read_sweep_config([setting])


def test_options_of_sbatch_are_free():
    texts = {"gres": "shard:1", "time": "1:30:00", "begin": "16:00", "account": "0123", "exclude": "n1,n2"}
    settings = [f"slurm.options.{name}={text}" for name, text in texts.items()]
    slurm = read_sweep_config([*settings, "slurm.options.exclusive=true", "slurm.partition=0123"]).slurm
    assert (slurm.options, slurm.partition) == (texts | {"exclusive": True}, "0123")
    assert read_sweep_config(["gpus=0,1", "slurm.partition=gpu"]).gpus == "0,1"
