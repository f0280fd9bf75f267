"""Standard streams that may go away: a closed terminal, a pipe without a reader, a full disk."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO


class Lasting:
    """A stream that takes text without an error when its end is gone: the printing ends, not the work."""

    def __init__(self, stream: TextIO, report: bool):
        self._stream, self._report = stream, report

    def write(self, text: str) -> int:
        self._attempt(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def _attempt(self, act: Any, *arguments: str) -> None:
        try:
            act(*arguments)
        except OSError as error:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())  # also for what is buffered: the interpreter flushes it at its end
            os.close(null)
            if self._report:
                print(f"note: standard output takes no more ({error.strerror}); the command goes on", file=sys.stderr)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def lasting_output() -> Iterator[None]:
    """Within it neither standard stream raises OSError; one line on the other says that the output is gone.

    A stream that was closed before the start, which Python has as None, takes everything and shows nothing.
    """
    errors, output = (stream or open(os.devnull, "w") for stream in (sys.stderr, sys.stdout))
    with redirect_stderr(Lasting(errors, report=False)), redirect_stdout(Lasting(output, report=True)):
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
