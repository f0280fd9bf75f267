"""Shows agents of one task side by side: commands/compare.py."""

import sys

from commands.compare import main

if __name__ == "__main__":
    sys.exit(main())
