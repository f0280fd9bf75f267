"""Say what the emulators' games are, and where ale-py and the paper's atari-py differ: python scripts/emulators.py

Prints a table of the 26 games: ROM, size of the minimal action set, lives; and, where atari-py is installed, the first
step at which the two emulators differ. With atari-py it also writes the table to docs/emulators.md.
"""

import sys
from importlib.metadata import version
from pathlib import Path

from atari.emulators import FRAMES, table
from atari.games import require_emulator
from harness.command_line import Options, refuse
from harness.config import ConfigError

DOCUMENT = Path(__file__).parents[1] / "docs" / "emulators.md"


def main() -> int:
    parser = Options(__doc__)
    parser.add_argument("--steps", type=int, default=10000, help="agent steps compared in each game")
    parser.add_argument("--seed", type=int, default=1, help="of the emulators and of the random actions")
    try:
        options = parser.parse_args()
    except ConfigError as error:
        return refuse(error)
    try:
        require_emulator("atari_py", sticky_actions=0.0)
    except ConfigError as error:
        print(table(options.steps, options.seed, compare=False))
        print(f"not compared, and {DOCUMENT.name} is left alone: {error}", file=sys.stderr)
        return 0
    text = document(options.steps, options.seed)
    print(text)
    DOCUMENT.write_text(text)
    return 0


def document(steps: int, seed: int) -> str:
    return f"""# Emulators

`emulator=ale`, the default, plays on ale-py, which comes with its ROMs; here {version("ale-py")}. `emulator=atari_py`
plays on atari-py, the paper's emulator, and its ROMs; here {version("atari-py")}. `pip install -e '.[atari-py]'` builds
it with g++, cmake and zlib; cmake 4 needs `CMAKE_POLICY_VERSION_MINIMUM=3.5`. It plays without sticky actions only.

`python scripts/emulators.py` wrote this table. Both emulators play the same {steps:,} random actions, each for
{FRAMES} frames, without no-op starts; a game that ends starts anew. The last columns are agent steps: the end of the
first game, and the first step that differs in raw grayscale pictures, in rewards, in lives or ends; `-` for none.

{table(steps, seed, compare=True)}

Four of atari-py's ROMs are PAL: amidar, assault, bank_heist and gopher, with 250 lines instead of 210. A difference
that comes after the first game need not be one of the emulation: atari-py draws the timer that a game starts with.
"""


if __name__ == "__main__":
    sys.exit(main())
