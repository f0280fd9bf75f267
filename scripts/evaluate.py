"""Evaluates the newest weights of a run: commands/evaluate.py."""

from commands.evaluate import main

if __name__ == "__main__":
    raise SystemExit(main())
