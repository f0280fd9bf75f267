"""Command line of a training script: compose the configuration, refuse it in one line, or run it.

torch is left to `run`, so that a refused configuration answers at once.
"""

import argparse
import errno
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

import yaml

from harness.command import Command, chosen_groups
from harness.config import ConfigError, as_dict
from harness.errors import NotFinite
from harness.exit_codes import DISK_FAILED, FAILED, REFUSED
from harness.messages import complain, refuse
from harness.output import lasting_output
from harness.overrides import check_single

DISK = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE}  # errors of a disk that takes no more


@lasting_output()
def launch(command: Command, run: Callable[[Any], int], *, about: str = "", argv: Sequence[str] | None = None) -> int:
    """Exit code of the command: what `run` returns for the composed configuration, 2 if it cannot run.

    about: what `--help` prints before the choices. argv: the arguments, by default the command line's.
    """
    try:
        arguments = read_arguments(sys.argv[1:] if argv is None else argv)
        if arguments.help:
            print(help_text(command, about))
            return 0
        check_single(arguments.overrides)
        config = command.resolve(arguments.overrides)
        if arguments.cfg:
            print(yaml.safe_dump(as_dict(config), sort_keys=False), end="")
            return 0
        return run(config)
    except ConfigError as error:
        return refuse(error)
    except KeyboardInterrupt:  # at once: torch aborts an interpreter that ends while a checkpoint's writer runs
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
        raise


def refusing(*errors: type[Exception]) -> Callable[[Callable], Callable[..., int]]:
    """Decorates a command's `main`: its output may go away, and each of `errors` is a line and an exit code."""

    def decorate(main: Callable[[Sequence[str] | None], int]) -> Callable[..., int]:
        @lasting_output()
        def refused(arguments: Sequence[str] | None = None) -> int:
            try:
                return main(arguments)
            except errors as error:
                complain(str(error))
                return code_of(error)

        return refused

    return decorate


def code_of(error: Exception) -> int:
    """Exit code of what ends a command: a path that cannot be used is wrong input, a disk that fails is not."""
    if isinstance(error, NotFinite):
        return FAILED
    return DISK_FAILED if isinstance(error, OSError) and error.errno in DISK else REFUSED


class Options(argparse.ArgumentParser):
    """Options of a command, which `about` describes; a wrong one is a ConfigError with `advice`."""

    def __init__(self, about: str, prog: str | None = None, advice: str = "--help shows the options", **settings):
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(prog, description=about, formatter_class=formatter, allow_abbrev=False, **settings)
        self._advice = advice

    def error(self, message: str):
        raise ConfigError(f"{message}; {self._advice}")


def at_least(minimum: int) -> Callable[[str], int]:
    """The kind of an option that is an integer from `minimum` on."""

    def integer(text: str) -> int:
        if int(text) < minimum:
            raise argparse.ArgumentTypeError(f"{text} must be at least {minimum}")
        return int(text)

    return integer


def read_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Options of every training script."""
    parser = Options("", advice="settings are written key=value, --help shows them", add_help=False)
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--cfg", choices=["job"])
    parser.add_argument("overrides", nargs="*")
    return parser.parse_intermixed_args(list(argv))


def help_text(command: Command, about: str) -> str:
    chosen = chosen_groups(command.name)
    choices = [
        f"  {group}={'|'.join(names)}"
        if group in chosen
        else f"  +{group}=NAME  one of {len(names)} in configs/{group}/"
        for group, names in command.groups().items()
    ]
    return "\n".join([(about or "").strip(), "", "Choices:", *choices])
