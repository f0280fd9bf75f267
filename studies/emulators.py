"""List the emulators' games and the differences of ale-py and the paper's atari-py: python -m studies.emulators

Prints a table of the 26 games: ROM, size of the minimal action set, lives; and, where atari-py is installed, the first
step at which the two emulators differ. With atari-py it also writes the table to docs/emulators.md.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from atari.emulators import CONSOLES, NOOP, Emulator, make_emulator, rom_md5
from atari.games import PAPER_GAMES, require_emulator
from harness.command_line import Options
from harness.config import ConfigError
from harness.messages import refuse

DOCUMENT = Path(__file__).parents[1] / "docs" / "emulators.md"
FRAMES = 4  # repeats of an action


def main() -> int:
    parser = Options(__doc__, "python -m studies.emulators")
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

`environment.emulator=ale`, the default, plays on ale-py, which comes with its ROMs; here {version("ale-py")}.
`environment.emulator=atari_py` plays on atari-py, the paper's emulator, and its ROMs; here {version("atari-py")}.
`pip install -e '.[atari-py]'` builds it with g++, cmake and zlib; cmake 4 needs `CMAKE_POLICY_VERSION_MINIMUM=3.5`.
It plays without sticky actions only.

`python -m studies.emulators` wrote this table. Both emulators play the same {steps:,} random actions, each for
{FRAMES} frames, without no-op starts; a game that ends starts anew. The last columns are agent steps: the end of the
first game, and the first step that differs in raw grayscale pictures, in rewards, in lives or ends; `-` for none.

{table(steps, seed, compare=True)}

Four of atari-py's ROMs are PAL: amidar, assault, bank_heist and gopher, with 250 lines instead of 210. A difference
that comes after the first game need not be one of the emulation: atari-py draws the timer that a game starts with.
"""


@dataclass
class Outcome:
    """Visible result of one agent step."""

    screen: np.ndarray  # uint8 [height, width]
    reward: int
    lives: int
    over: bool


def play(emulator: Emulator, actions: list[int]) -> Iterator[Outcome]:
    """Outcome of each action, an emulator's number that is repeated for FRAMES; a finished game is reset."""
    over = True
    for action in actions:
        if over:
            emulator.reset()
        reward = sum(emulator.act(action) for _ in range(FRAMES))
        over = emulator.ale.game_over()
        screen = np.empty(emulator.screen_shape, dtype=np.uint8)
        emulator.grab(screen)
        yield Outcome(screen, reward, emulator.ale.lives(), over)


def first_steps(game: str, steps: int, seed: int) -> dict[str, int | None]:
    """The agent steps, from 1 on, at which ale-py's first game ends and the emulators first differ; None for never."""
    ale, atari_py = (make_emulator(name, game, sticky_actions=0.0, seed=seed) for name in CONSOLES)
    actions = np.random.RandomState(seed).choice(ale.actions, steps).tolist()
    found: dict[str, int | None] = dict.fromkeys(("end", "pictures", "rewards", "lives"))
    for step, (a, b) in enumerate(zip(play(ale, actions), play(atari_py, actions), strict=True), start=1):
        now = {
            "end": a.over,
            "pictures": not np.array_equal(a.screen, b.screen),
            "rewards": a.reward != b.reward,
            "lives": (a.lives, a.over) != (b.lives, b.over),
        }
        found = {key: step if found[key] is None and now[key] else found[key] for key in found}
    return found


def table(steps: int, seed: int, compare: bool) -> str:
    """Markdown: a row per game, with the emulators' agreement if `compare`."""
    columns = ["game", "MD5 of the ROM", "actions", "lives"]
    if compare:
        columns += ["MD5 of atari-py's ROM", "first game", "pictures", "rewards", "lives, ends"]
    rows = [columns, ["---"] * len(columns)]
    for game in PAPER_GAMES:
        emulator = make_emulator("ale", game, sticky_actions=0.0, seed=seed)
        emulator.reset()
        emulator.act(NOOP)  # in some games the counter is not set before
        row = [game, rom_md5(game, "ale"), str(len(emulator.actions)), str(emulator.ale.lives())]
        if compare:
            md5, first = rom_md5(game, "atari_py"), first_steps(game, steps, seed)
            row.append("the same" if md5 == row[1] else md5)
            row += ["-" if step is None else f"{step:,}" for step in first.values()]
        rows.append(row)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    sys.exit(main())
