"""Commands whose standard output goes away."""

import os
import pty
import subprocess
import sys

import pytest

from tests.conftest import ROOT

PRINT = """
import sys
from rich.console import Console
from harness.output import lasting_output
with lasting_output():
    console = Console()
    input()
    for number in range(3):
        console.print("x" * 9000, number)
        print(number)
        print(number, file=sys.stderr)
    open(sys.argv[1], "w").write("went on")
"""


def pipe():
    reader, writer = os.pipe()
    return writer, lambda: os.close(reader)


def full_disk():
    return os.open("/dev/full", os.O_WRONLY), lambda: None


def terminal():
    ours, theirs = pty.openpty()
    return theirs, lambda: os.close(ours)


@pytest.mark.parametrize("make", [pipe, full_disk, terminal])
@pytest.mark.parametrize("errors_too", [False, True])
def test_an_output_that_is_gone_ends_the_printing_alone(tmp_path, make, errors_too):
    output, leave = make()
    command = [sys.executable, "-c", PRINT, str(tmp_path / "result")]
    error = output if errors_too else subprocess.PIPE
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=output, stderr=error, text=True)
    leave()
    _, errors = process.communicate("\n")
    os.close(output)
    assert process.returncode == 0 and (tmp_path / "result").read_text() == "went on"
    assert errors_too or errors.count("note: standard output takes no more") == 1


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_stream_that_was_closed_before_the_start_changes_nothing(closed):
    code = "from harness.output import lasting_output as o\nwith o(): print('a', flush=True)\nimport sys; sys.exit(7)"
    command = ["sh", "-c", f'exec "{sys.executable}" -c "$0" {closed}', code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (7, "a\n" if closed == "2>&-" else "", "")


def test_the_list_of_commands_may_be_cut_off():
    writer, close = pipe()
    close()
    code = "import sys; from commands import main; sys.argv = ['mlr', '--help']; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert done.returncode == 0 and done.stderr.count("\n") == 1, done.stderr
