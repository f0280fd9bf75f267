"""Trains Masked World Models: commands/train_mwm.py."""

from commands.train_mwm import main

if __name__ == "__main__":
    raise SystemExit(main())
