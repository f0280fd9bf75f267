"""Shows agents of one task side by side: commands/compare.py."""

from commands.compare import main

if __name__ == "__main__":
    raise SystemExit(main())
