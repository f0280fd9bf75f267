"""Trains on a DMControl task: commands/train_dmcontrol.py."""

from commands.train_dmcontrol import main

if __name__ == "__main__":
    raise SystemExit(main())
