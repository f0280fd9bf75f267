import os
import signal
import subprocess
import sys

import pytest

from harness.stop import STOP_SIGNALS, StopRequest, StopRequested, resume_me_at_a_signal
from tests.conftest import ROOT


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_is_a_request_and_handlers_are_put_back(number):
    outer = signal.signal(number, signal.default_int_handler)  # a hangup may be ignored where the tests were started
    try:
        with StopRequest() as stop:
            stop.check()
            os.kill(os.getpid(), number)
            assert stop.requested
            with pytest.raises(StopRequested):
                stop.check()
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, outer)


def test_an_ignored_hangup_stays_ignored():
    assert signal.SIGHUP in STOP_SIGNALS
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        resume_me_at_a_signal()
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.requested
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_a_second_ctrl_c_stops_at_once():
    with StopRequest():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


SWALLOWING = """
import os, signal
from harness.stop import resume_me_at_a_signal
resume_me_at_a_signal()
try:
    os.kill(os.getpid(), signal.SIGTERM)
except BaseException:
    pass
print("went on")
"""


def test_a_signal_ends_a_start_up_that_swallows_every_exception():
    """As some libraries do while they are imported."""
    result = subprocess.run([sys.executable, "-c", SWALLOWING], cwd=ROOT, capture_output=True, check=False)
    assert (result.returncode, result.stdout) == (75, b"")
