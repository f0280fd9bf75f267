"""Builds tables, figures and a page of runs: commands/report.py."""

import sys

from commands.report import main

if __name__ == "__main__":
    sys.exit(main())
