"""Prints a digest of each part of a run: commands/inspect_run.py."""

from commands.inspect_run import main

if __name__ == "__main__":
    raise SystemExit(main())
