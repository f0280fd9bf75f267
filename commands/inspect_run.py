"""Prints a line with a SHA-256 for each part of a run's newest checkpoint and for each of its CSV files.

mlr inspect RUN

Runs that went the same way print the same digests, also if one of them was interrupted.
"""

from pathlib import Path

from harness.command_line import Options
from harness.config import ConfigError
from harness.messages import refuse
from harness.output import lasting_output


@lasting_output()
def main(arguments: list[str] | None = None) -> int:
    parser = Options(__doc__)
    parser.add_argument("run", type=Path, help="run folder")
    try:
        options = parser.parse_args(arguments)
        from harness.inspection import inspect  # imports torch

        for name, digest, note in inspect(options.run):
            print(f"{name:<16} {digest}  {note}")
    except ConfigError as error:
        return refuse(error)
    return 0
