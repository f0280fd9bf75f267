"""Trains on an Atari game: commands/train_atari.py."""

import sys

from commands.train_atari import main

if __name__ == "__main__":
    sys.exit(main())
