"""Attempts of runs that are small scripts: what is done about each way to end."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from harness.sweeps.attempt import Outcome, run_to_end
from harness.sweeps.local import count_places, make_shares, run_side_by_side, visible_gpus
from harness.sweeps.plan import SweepRun
from harness.sweeps.record import futile_attempts, is_claimed, is_finished, is_settled, log_path, note, read_events
from harness.sweeps.status import read_status, seconds_left, summary, table
from tests.conftest import ROOT
from tests.waiting import until

FINISH = "open('evaluations.csv', 'w').write('agent_steps,score\\n8,1\\n8,2\\n');"
STEP = "import pathlib; n = len(list(pathlib.Path('checkpoints').glob('*'))) + 1; os.makedirs(f'checkpoints/{n:09d}');"


def make_run(folder: Path, body: str, name: str = "atari/pong/mlr/seed_1") -> SweepRun:
    """A run that executes `body` in its folder."""
    run_dir = folder / name
    code = f"import os, sys, time, signal; os.chdir({str(run_dir)!r}); {body}"
    return SweepRun(name, "atari", 1, ["-c", code], str(run_dir), 8, 2)


def attempt(run: SweepRun, **options) -> Outcome:
    return run_to_end(run, **({"environment": {}, "attempts": 3, "stop": lambda: False} | options))


def start_sweep(run: SweepRun) -> subprocess.Popen:
    """Attempts the run in a process of its own."""
    code = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from harness.sweeps.attempt import run_to_end
from harness.sweeps.plan import SweepRun
run_to_end({run!r}, {{}}, 3, lambda: False)
"""
    return subprocess.Popen([sys.executable, "-c", code])


def codes(run: SweepRun) -> list[int]:
    return [event["code"] for event in read_events(run) if event["event"] == "ended"]


def test_a_run_that_is_done_is_never_started_again(tmp_path):
    run = make_run(tmp_path, FINISH)
    assert attempt(run) == attempt(run) == Outcome("done")
    assert codes(run) == [0]


def test_a_run_that_asks_for_it_or_is_killed_is_started_until_it_is_done(tmp_path):
    kill = "os.kill(os.getpid(), 9)"
    run = make_run(tmp_path, f"{STEP}\nif n < 3: sys.exit(75)\nif n < 6: {kill}\n{FINISH}")
    assert attempt(run) == Outcome("done")
    assert codes(run) == [75, 75, -9, -9, -9, 0]


@pytest.mark.parametrize(("end", "how"), [("sys.exit(75)", "exit code 75"), ("os.kill(os.getpid(), 9)", "SIGKILL")])
def test_attempts_that_get_no_further_are_bounded(tmp_path, end, how):
    run = make_run(tmp_path, f"print('here', flush=True); {end}")
    outcome = attempt(run)
    assert outcome.state == "failed"
    assert outcome.reason == f"3 attempts in a row got no further, the last one ended by {how}: here"
    assert len(codes(run)) == 3
    assert futile_attempts(run) == 0, "the next sweep tries anew"
    attempt(run)
    assert len(codes(run)) == 6


@pytest.mark.parametrize("attempts", [1, 2])
def test_an_attempt_that_got_further_is_not_one_of_them(tmp_path, attempts):
    run = make_run(tmp_path, "os.makedirs('checkpoints/000000001', exist_ok=True); sys.exit(75)")
    assert attempt(run, attempts=attempts).state == "failed"
    assert codes(run) == [75] * (1 + attempts)


def test_a_full_disk_leaves_no_process_and_is_named(tmp_path, monkeypatch):
    def fail(run, event, **values):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("harness.sweeps.attempt.note", fail)
    run = make_run(tmp_path, "time.sleep(60)")
    outcome = attempt(run)
    assert outcome.state == "failed" and "No space left on device" in outcome.reason
    assert not is_claimed(run), "its process would hold the claim"


def test_a_machine_without_setpriv_is_told_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr("harness.sweeps.attempt.BIND", ["no-setpriv-here"])
    assert "no-setpriv-here" in attempt(make_run(tmp_path, FINISH)).reason


@pytest.mark.parametrize("code", [1, 2, 70, 74])
def test_a_run_that_fails_is_not_repeated_and_says_its_error(tmp_path, code):
    body = f"print('error: too hot', file=sys.stderr); print('noise at the end'); sys.exit({code})"
    run = make_run(tmp_path, body)
    assert attempt(run) == Outcome("failed", f"exit code {code}: error: too hot")
    assert codes(run) == [code]
    status = read_status(run, {})
    assert status.state == "failed"
    assert status.reason == f"exit code {code}: error: too hot ({log_path(run)})"


def test_an_exit_without_rows_is_no_success(tmp_path):
    assert attempt(make_run(tmp_path, "pass")).state == "failed"


def test_a_folder_that_cannot_be_made_is_that_runs_failure(tmp_path):
    (tmp_path / "atari").write_text("")
    assert attempt(make_run(tmp_path, FINISH)).state == "failed"


def test_a_kill_after_the_last_row_leaves_the_curve_to_be_drawn(tmp_path):
    run = make_run(tmp_path, f"{FINISH}\nif not os.path.exists('curve'): open('curve', 'w'); os.kill(os.getpid(), 9)")
    assert attempt(run) == Outcome("done")
    assert codes(run) == [-9, 0]


def test_stop_is_passed_on_as_a_signal_that_lets_the_run_save(tmp_path):
    body = "signal.signal(15, lambda *_: (open('saved', 'w'), sys.exit(75))); open('ready', 'w'); time.sleep(60)"
    run = make_run(tmp_path, body)
    ready, saved = Path(run.run_dir) / "ready", Path(run.run_dir) / "saved"
    assert attempt(run, stop=ready.exists) == Outcome("stopped")
    assert saved.exists()
    assert codes(run) == [75]
    assert attempt(run, stop=lambda: True) == Outcome("stopped")
    assert codes(run) == [75], "nothing starts after a stop"


def test_two_sweeps_never_attempt_a_run_at_the_same_time(tmp_path):
    run = make_run(tmp_path, f"\nwhile not os.path.exists('go'): time.sleep(0.01)\n{FINISH}")
    outcomes = []
    threads = [threading.Thread(target=lambda: outcomes.append(attempt(run))) for _ in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: read_status(run, {}).state == "running")
    assert is_claimed(run)
    (Path(run.run_dir) / "go").touch()
    for thread in threads:
        thread.join()
    assert outcomes == [Outcome("done")] * 3
    assert codes(run) == [0]
    assert not is_claimed(run)


def test_a_process_that_outlived_its_sweep_is_waited_for(tmp_path):
    run = make_run(tmp_path, f"open('order', 'a').write('attempt ');{FINISH}")
    Path(run.run_dir).mkdir(parents=True)
    lock, order = (str(Path(run.run_dir) / name) for name in (".lock", "order"))
    hold = f"import fcntl, time; f = open({lock!r}, 'w'); fcntl.flock(f, 2); print('on', flush=True); time.sleep(1.5);"
    code = f"{hold} open({order!r}, 'a').write('outlived ')"
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    holder.stdout.readline()
    assert attempt(run) == Outcome("done")
    holder.wait()
    assert Path(order).read_text() == "outlived attempt "


def test_runs_of_a_sweep_that_is_killed_are_told_to_stop(tmp_path):
    body = "signal.signal(15, lambda *_: (open('told', 'w'), sys.exit(75))); open('ready', 'w'); time.sleep(600)"
    run = make_run(tmp_path, body)
    process = start_sweep(run)
    until((Path(run.run_dir) / "ready").exists)
    process.kill()
    process.wait()
    until((Path(run.run_dir) / "told").exists)


def test_a_process_that_outlived_its_sweep_without_a_lock_of_its_own_is_waited_for(tmp_path):
    """As training does before its parts are made."""
    body = f"signal.signal(15, signal.SIG_IGN); alone = not os.path.exists('first'); open('first', 'w'); {FINISH}"
    body += "\nwhile alone and not os.path.exists('claimed'): time.sleep(0.05)"
    body += "\nif alone: open('over', 'w')\nelse: assert os.path.exists('over')"
    run = make_run(tmp_path, body)
    process = start_sweep(run)
    until((Path(run.run_dir) / "first").exists)
    process.kill()
    process.wait()
    assert is_claimed(run)
    threading.Timer(0.5, (Path(run.run_dir) / "claimed").touch).start()
    assert attempt(run) == Outcome("done")
    assert codes(run) == [0]


def test_no_more_runs_than_shares_go_at_once_and_a_failure_stops_nobody(tmp_path):
    log = tmp_path / "log"
    body = f"f = open({str(log)!r}, 'a'); f.write(os.environ['CUDA_VISIBLE_DEVICES']); f.flush(); time.sleep(0.4); "
    runs = [make_run(tmp_path, body + (FINISH if i != 2 else "sys.exit(2)"), f"run_{i}") for i in range(6)]
    most, told = [0], []

    def watch() -> None:
        most.append(sum(is_claimed(run) for run in runs))

    shares = make_shares(["3", "5"], 2, 4)
    outcomes = run_side_by_side(runs, shares, 3, lambda: False, lambda run, outcome: told.append(run.name), watch)
    assert [outcome.state for outcome in outcomes] == ["done", "done", "failed", "done", "done", "done"]
    assert sorted(told) == [run.name for run in runs]
    assert max(most) == 2
    assert set(log.read_text()) == {"3", "5"}


def test_a_second_interrupt_waits_for_nobody(tmp_path):
    run = make_run(tmp_path, "signal.signal(15, lambda *_: sys.exit(75)); open('ready', 'w'); time.sleep(60)")
    left = threading.Event()

    def watch() -> None:
        if (Path(run.run_dir) / "ready").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_side_by_side([run], [{}], 3, left.is_set, watch=watch)
    assert is_claimed(run), "the run goes on until it is told"
    left.set()
    until(lambda: not is_claimed(run))
    assert codes(run) == [75]


def test_shares_divide_gpus_and_cores(monkeypatch):
    for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)
    shares = make_shares(["0", "1"], 4, 16)
    assert {share["CUDA_DEVICE_ORDER"] for share in shares} == {"PCI_BUS_ID"}  # the order of nvidia-smi and EGL
    assert [share["CUDA_VISIBLE_DEVICES"] for share in shares] == ["0", "1", "0", "1"]
    assert {share["OMP_NUM_THREADS"] for share in shares} == {"4"}
    assert count_places(["0", "1"], 0, 2, 9) == 4
    assert count_places([], 0, 4, 9) == 1, "without a GPU one at a time"
    assert count_places(["0"], 3, 1, 9) == 3
    assert count_places([], 8, 1, 2) == 2, "cores are for those that run"
    assert count_places([], 8, 1, 0) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert make_shares([], 2, 16) == [{"OMP_NUM_THREADS": "7"}] * 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,MIG-1")
    assert visible_gpus() == ["2", "MIG-1"]
    assert visible_gpus("0") == ["0"]
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert visible_gpus() == []


def test_parts_of_a_gpu_are_no_gpus(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    lines = ("GPU 0: H200 (UUID: GPU-1)", "  MIG 1g.18gb Device 0: (UUID: MIG-1)", "GPU 1: H200 (UUID: GPU-2)")
    program.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus() == ["0", "1"]


def test_a_record_that_a_kill_cut_short_is_read_and_goes_on(tmp_path):
    run = make_run(tmp_path, "")
    note(run, "started", progress=[0, 0])
    path = Path(run.run_dir) / ".sweep.jsonl"
    path.write_text(path.read_text() + '{"event": "en')
    note(run, "ended", code=75)
    assert [event["event"] for event in read_events(run)] == ["started", "ended"]


def test_rows_that_are_still_being_written_do_not_count(tmp_path):
    run = make_run(tmp_path, "")
    rows = Path(run.run_dir) / "evaluations.csv"
    rows.parent.mkdir(parents=True)
    rows.write_text("agent_steps,score\n8,1\n8,2")
    assert not is_finished(run)
    rows.write_text("agent_steps,score\n8,1\n8,2\n")
    assert is_finished(run)
    assert is_settled(run), "trained by hand"


def test_status_counts_and_estimates(tmp_path):
    done, running, waiting = (make_run(tmp_path, "", f"run_{i}") for i in range(3))
    for run, rows in ((done, "4,50\n8,30\n"), (running, "4,80\n")):
        note(run, "started", progress=[0, 0])  # whatever the attempts took, of which a killed sweep notes no end
        (Path(run.run_dir) / "metrics.csv").write_text(f"agent_steps,time/total_seconds\n{rows}")
    note(done, "ended", code=0, outcome="done", progress=[8, 2])
    (Path(done.run_dir) / "evaluations.csv").write_text("agent_steps,score\n8,1\n8,2\n")
    note(running, "submitted", job="7_1")
    note(waiting, "submitted", job="7_2")
    statuses = [read_status(run, {"7_1": "RUNNING", "7_2": "PENDING"}) for run in (done, running, waiting)]
    assert [status.state for status in statuses] == ["done", "running", "waiting"]
    assert [status.attempts for status in statuses] == [1, 1, 0]
    assert statuses[2].reason == "job 7_2"
    left = seconds_left(statuses)  # 160 seconds for 12 steps
    assert left["run_1"] == pytest.approx(4 * 160 / 12)
    assert left["run_2"] == pytest.approx(8 * 160 / 12)
    assert summary(statuses).startswith("3 runs: 1 done, 1 running, 1 waiting, 0 failed  ETA 0:02:4")
    assert table(statuses).count("\n") == 4
