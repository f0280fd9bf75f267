"""Shows a clip of a game or task with its mask, as PNG and GIF: studies/visualize.py."""

from studies.visualize import main

if __name__ == "__main__":
    raise SystemExit(main())
