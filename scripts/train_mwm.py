"""Trains Masked World Models: commands/train_mwm.py."""

import sys

from commands.train_mwm import main

if __name__ == "__main__":
    sys.exit(main())
