"""Trains on a DMControl task: commands/train_dmcontrol.py."""

import sys

from commands.train_dmcontrol import main

if __name__ == "__main__":
    sys.exit(main())
