"""Trains on an Atari game: commands/train_atari.py."""

from commands.train_atari import main

if __name__ == "__main__":
    raise SystemExit(main())
