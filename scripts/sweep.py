"""Runs many trainings: commands/sweep.py."""

from commands.sweep import main

if __name__ == "__main__":
    raise SystemExit(main())
