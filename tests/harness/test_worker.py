"""Real spawned processes; what they run is below, and imports no torch."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import NotFinite, WorkerLost
from harness.stop import STOP_SIGNALS
from harness.worker import Worker
from tests.waiting import HANG, until

ROOT = Path(__file__).parents[2]


def answer(connection, name):
    while True:
        question = connection.recv()
        if question == "raise":
            raise NotFinite("a reward")
        connection.send((name, question, os.getpid()))


def ask(worker, question):
    worker.send(question)
    return worker.receive()


def test_a_worker_answers_whatever_signals_a_run_gets_and_sends_what_it_raises():
    with Worker("worker", HANG, answer, "first") as worker:
        *answered, pid = ask(worker, 1)
        assert answered == ["first", 1] and pid != os.getpid()
        for number in STOP_SIGNALS:
            os.kill(pid, number)
        assert ask(worker, 2) == ("first", 2, pid)
        worker.send("raise")
        with pytest.raises(NotFinite, match="a reward"):
            worker.receive()
    assert not Path(f"/proc/{pid}").exists()


class Odd(Exception):
    """Pickled with one argument, made with two."""

    def __init__(self, what, where):
        super().__init__(f"{what} at {where}")


def fail(connection, kind):
    raise Odd("a fault", "home") if kind == "odd" else ConnectionRefusedError("no server")


@pytest.mark.parametrize("kind, raised", [("refused", ConnectionRefusedError), ("odd", RuntimeError)])
def test_what_a_worker_raises_arrives_with_its_traceback(kind, raised):
    with Worker("worker", HANG, fail, kind) as worker, pytest.raises(raised) as caught:
        worker.receive()
    told = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert "in fail" in told and ("no server" in told or "Odd: a fault at home" in told)


def test_the_signals_that_a_worker_does_not_get_still_reach_the_run():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with Worker("worker", HANG, answer, "first"):
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_a_killed_worker_is_found_at_once():
    with Worker("worker 3", HANG, answer, "first") as worker:
        *_, pid = ask(worker, 1)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(WorkerLost, match=r"worker 3 died \(SIGKILL\)"):  # not after the silence of a hang
            ask(worker, 2)


def test_a_hung_worker_is_found_in_time_and_ended():
    with Worker("worker 3", HANG, answer, "first") as worker:
        *_, pid = ask(worker, 1)
        os.kill(pid, signal.SIGSTOP)
        worker._timeout = 3
        worker.send(2)
        assert not worker.ready(0.1)
        with pytest.raises(WorkerLost, match="worker 3 said nothing for 3 s"):
            worker.receive()
    assert not Path(f"/proc/{pid}").exists()


def start_another(connection):
    connection.send(subprocess.Popen(["sleep", "100"]).pid)
    connection.recv()


def test_what_a_worker_has_started_ends_with_it():
    with Worker("worker", HANG, start_another) as worker:
        pid = worker.receive()
        assert alive(pid)
        os.kill(pid, signal.SIGSTOP)
    until(lambda: not alive(pid))


def test_a_process_that_does_not_go_away_does_not_hold_up_the_run(monkeypatch):
    monkeypatch.setattr("harness.worker.END_SECONDS", 0.2)
    one = Worker("worker", HANG, answer, "first")
    process = one._process
    os.kill(process.pid, signal.SIGSTOP)
    monkeypatch.setattr(process, "kill", lambda: None)
    one.close()
    assert process.is_alive()  # and was not waited for
    os.kill(process.pid, signal.SIGKILL)
    process.join()


PARENT = """
import os, signal, sys
from tests.harness.test_worker import answer, ask
from harness.worker import Worker
workers = [Worker("worker", 3600, answer, "first") for _ in range(2)]
pids = [ask(worker, 1)[-1] for worker in workers]
os.kill(pids[0], signal.SIGSTOP)
print(*pids, flush=True)
sys.stdin.read()
"""


def test_workers_end_with_a_killed_run_even_one_that_hangs():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    parent = subprocess.Popen([sys.executable, "-c", PARENT], env=environment, **streams)
    pids = parent.stdout.readline().split()
    assert len(pids) == 2
    parent.kill()
    parent.communicate()
    until(lambda: not any(alive(pid) for pid in pids))


def alive(pid) -> bool:
    """Whether a process runs; one that nobody has waited for yet does not."""
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z"
