"""Replays reference files through this project's functions and prints how far they agree.

python -m tests.golden.replay [--atari DIR] [--dmcontrol DIR]

Ends with 1 if a quantity is off. Without arguments it replays the files that the tests use.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.golden import atari_a_b_c, atari_d, atari_e, atari_f_g, atari_h_i, atari_j, dmcontrol_core
from tests.golden.check import DATA, Check

Replay = Callable[[Path], Iterator[Check]]
ATARI: tuple[Replay, ...] = (
    atari_a_b_c.replay_a,
    atari_a_b_c.replay_b,
    atari_a_b_c.replay_c,
    atari_d.replay_d,
    atari_e.replay_e,
    atari_f_g.replay_f,
    atari_f_g.replay_g,
    atari_h_i.replay_h,
    atari_h_i.replay_i,
    atari_j.replay_j,
)
DMCONTROL: tuple[Replay, ...] = (
    dmcontrol_core.replay_a,
    dmcontrol_core.replay_b,
    dmcontrol_core.replay_c,
    dmcontrol_core.replay_i,
)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atari", type=Path, default=DATA / "atari")
    parser.add_argument("--dmcontrol", type=Path, default=DATA / "dmcontrol", help="masks, block, positions, crops")
    options = parser.parse_args(arguments)
    checks = [check for replay in ATARI for check in replay(options.atari)]
    checks += [check for replay in DMCONTROL for check in replay(options.dmcontrol)]
    table = Table("file", "quantity", "largest error", "tolerance", "verdict")
    for check in checks:
        verdict = "ok" if check.passed else "[bold red]off[/]"
        table.add_row(check.file, check.quantity, f"{check.error:.1e}", f"{check.tolerance:.0e}", verdict)
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    failed = sum(not check.passed for check in checks)
    print(f"{len(checks) - failed} of {len(checks)} quantities agree")
    return 1 if failed or not checks else 0


if __name__ == "__main__":
    sys.exit(main())
