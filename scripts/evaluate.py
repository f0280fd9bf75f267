"""Evaluates the newest weights of a run: commands/evaluate.py."""

import sys

from commands.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
