"""Builds tables, figures and a page of runs: commands/report.py."""

from commands.report import main

if __name__ == "__main__":
    raise SystemExit(main())
