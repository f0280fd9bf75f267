"""A sweep on a SLURM of one machine that the test starts: an array job, its time limit, its requeue, and a kill."""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from harness.report.scores import read_runs
from tests.sweeps import attempts, sweep, tiny
from tests.waiting import HANG, until

DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch")
CONF = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=1
GresTypes=gpu
SlurmdParameters=config_overrides
KillWait=5
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000 Gres=gpu:2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture
def cluster(tmp_path_factory, monkeypatch) -> Iterator[None]:
    """munged, slurmctld and slurmd of their own, with two CPUs and two GPUs that are none."""
    missing = [name for name in DAEMONS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"SLURM is not installed, {', '.join(missing)} missing: apt-get install slurm-wlm munge")
    if os.getuid() != 0:
        pytest.skip("SLURM needs root here")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(short_folder()))
        controller_port, node_port = free_ports(2)
        conf = folder / "slurm.conf"
        values = {"host": socket.gethostname().split(".")[0], "user": getpass.getuser(), "folder": folder}
        conf.write_text(CONF.format(controller_port=controller_port, node_port=node_port, **values))
        (folder / "gres.conf").write_text("Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n")
        for name in ("state", "spool"):
            (folder / name).mkdir()
        (folder / "munge.key").write_bytes(os.urandom(1024))
        (folder / "munge.key").chmod(0o400)
        monkeypatch.setenv("SLURM_CONF", str(conf))
        files = {name: f"{folder}/munge.{name}" for name in ("socket", "key", "pid", "log", "seed")}
        munged = ["munged", "--foreground", "--force", f"--socket={files['socket']}", f"--key-file={files['key']}"]
        munged += [f"--pid-file={files['pid']}", f"--log-file={files['log']}", f"--seed-file={files['seed']}"]
        stack.enter_context(daemon(munged, folder))
        until(Path(files["socket"]).exists, pause=1)
        stack.enter_context(daemon(["slurmctld", "-D"], folder))
        until(lambda: call("scontrol", "ping").returncode == 0, pause=1)
        stack.enter_context(daemon(["slurmd", "-D", "-N", values["host"]], folder))
        until(lambda: "idle" in call("sinfo", "-h", "-o", "%T").stdout, pause=1)
        yield
        call("scancel", "--user", getpass.getuser(), "--signal=KILL")
        call("scancel", "--user", getpass.getuser())
        until(lambda: not queue("%i"), pause=1)


class short_folder:
    """A folder in /tmp: the path of a socket has at most 107 characters."""

    def __enter__(self) -> str:
        self.path = Path(f"/tmp/one-slurm-{os.getpid()}")
        self.path.mkdir(mode=0o755)
        return str(self.path)

    def __exit__(self, *exception) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


class daemon:
    def __init__(self, command: list[str], folder: Path):
        self.command, self.log = command, folder / f"{command[0]}.out"

    def __enter__(self) -> None:
        with self.log.open("w") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, start_new_session=True)

    def __exit__(self, *exception) -> None:
        print(f"--- {self.command[0]}\n{self.log.read_text()[-4000:]}")  # pytest shows it if the test failed
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def call(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True, timeout=HANG, check=False)


def queue(columns: str) -> list[str]:
    """Lines of the queue; asks again while the controller does not answer, which is no empty queue."""
    answers = []

    def answered() -> bool:
        answers.append(call("squeue", "-h", "--array", "-o", columns))
        return answers[-1].returncode == 0

    until(answered, pause=1)
    return answers[-1].stdout.splitlines()


def hurry(lift: bool = False) -> None:
    """Starts again soon what SLURM would keep waiting for two minutes; with `lift`, without the short time limit.

    A node refuses a job whose new start is not a second after its end, and the job is lost: "credential revoked".
    """
    for line in queue("%i %T %l %r"):
        job, state, limit, reason = line.split(maxsplit=3)
        if lift and limit == "1:00":
            call("scontrol", "update", f"JobId={job}", "TimeLimit=60")
        if state == "PENDING" and reason == "BeginTime":
            time.sleep(3)
            call("scontrol", "update", f"JobId={job}", "StartTime=now")


@pytest.mark.gl
@pytest.mark.slurm
def test_an_array_of_both_suites_is_warned_put_back_killed_and_ends_complete(cluster, tmp_path):
    """The warning comes 10 to 40 seconds after a job's start: SLURM looks every 30 seconds, and is early."""
    settings = [
        "table=atari100k,dmcontrol100k", "tasks=pong,finger_spin", "seeds=1",
        *tiny("", "atari.agent_steps=900", "dmcontrol.env_steps=5000", "checkpoint_every=100"),
        "launcher=slurm", "slurm.gpus=1", "slurm.cpus=1", "slurm.memory_gb=1",
        "slurm.minutes=1", "slurm.warning_seconds=20",
    ]  # fmt: skip
    first = sweep(tmp_path, *settings)
    assert first.returncode == 0, first.stderr
    assert "2 runs submitted as 2 jobs" in first.stdout
    again = sweep(tmp_path, *settings)
    assert "nothing to submit" in again.stdout, "what is in the queue must not be submitted twice"

    runs = ["runs/atari/pong/mlr-released-tiny/seed_1", "runs/dmcontrol/finger_spin/mlr-released-tiny/seed_1"]
    until(lambda: hurry() or all(was_put_back(tmp_path, run) for run in runs), pause=1)
    until(lambda: hurry(lift=True) or any(is_under_way(tmp_path, run) for run in runs), pause=1)
    # The other one may still be in the queue: SLURM starts again when it likes.
    killed, cancelled = sorted(runs, key=lambda run: not is_under_way(tmp_path, run))
    os.kill(attempts(tmp_path)[killed][-1]["pid"], signal.SIGKILL)
    job = job_of(tmp_path, cancelled)
    call("scancel", job)
    until(lambda: job not in queue("%i"), pause=1)
    assert "1 runs submitted" in sweep(tmp_path, *settings).stdout
    until(lambda: hurry(lift=True) or not queue("%i"), pause=1)

    status = sweep(tmp_path, "status", *settings)
    assert "2 runs: 2 done, 0 running, 0 waiting, 0 failed" in status.stdout
    record = attempts(tmp_path)
    assert [[event["code"] for event in events if event.get("code") == 0] for events in record.values()] == [[0]] * 2
    assert -signal.SIGKILL in [event.get("code") for event in record[killed]]
    assert len({event["job"] for event in record[cancelled] if event["event"] == "submitted"}) == 2
    assert {event["gpu"] for events in record.values() for event in events if event["event"] == "started"} <= {"0", "1"}
    assert [len(run.evaluations) for run in read_runs([tmp_path / "runs"]) if run.is_finished] == [1] * 2


def job_of(folder: Path, run: str) -> str:
    return next(event["job"] for event in attempts(folder)[run] if event["event"] == "submitted")


def was_put_back(folder: Path, run: str) -> bool:
    """Tells whether the run heard of its job's time limit, and SLURM has put the job back into its queue.

    The second comes a moment after the first. A job that is cancelled in between still puts itself back.
    """
    events = attempts(folder)[run]
    codes = [event["code"] for event in events if event["event"] == "ended"]
    assert codes[:1] != [0], f"{run} is too short: it ended before the warning"
    warned = any(event.get("outcome") == "stopped" for event in events)
    return warned and "Restarts=0" not in call("scontrol", "show", "job", job_of(folder, run)).stdout


def is_under_way(folder: Path, run: str) -> bool:
    """Tells whether an attempt after the warning trains."""
    log = (folder / run / ".sweep.log").read_bytes()
    last = attempts(folder)[run][-1]
    return last["event"] == "started" and b"agent steps  ETA" in log.rpartition(b"run folder")[2]
