"""Plays stored evaluation episodes again: commands/verify.py."""

import sys

from commands.verify import main

if __name__ == "__main__":
    sys.exit(main())
