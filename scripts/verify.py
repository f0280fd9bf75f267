"""Plays stored evaluation episodes again: commands/verify.py."""

from commands.verify import main

if __name__ == "__main__":
    raise SystemExit(main())
