"""Replays reference files through this project's functions and prints how far they agree.

python -m tests.golden.replay [--atari DIR] [--dmcontrol DIR] [--mwm DIR] [--auxiliaries DIR]

Ends with 1 if a quantity is off, and if a file is missing or cannot be replayed. Without arguments it replays the files
that the tests use.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.golden import (
    atari_a_b_c,
    atari_d,
    atari_e,
    atari_f_g,
    atari_h_i,
    atari_j,
    auxiliary_curl,
    auxiliary_curl_rainbow,
    auxiliary_drq,
    auxiliary_sac_ae,
    auxiliary_spr,
    auxiliary_spr_atari,
    dmcontrol_core,
    dmcontrol_d,
    dmcontrol_e,
    dmcontrol_f,
    dmcontrol_g,
    dmcontrol_h,
    dmcontrol_j,
    mwm_agent,
    mwm_autoencoder,
    mwm_behaviour,
    mwm_dynamics,
    mwm_replay,
)
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
    dmcontrol_d.replay_d,
    dmcontrol_e.replay_e,
    dmcontrol_f.replay_f,
    dmcontrol_g.replay_g,
    dmcontrol_h.replay_h,
    dmcontrol_core.replay_i,
    dmcontrol_j.replay_j,
)
MWM: tuple[Replay, ...] = (
    mwm_autoencoder.replay_a,
    mwm_autoencoder.replay_b,
    mwm_autoencoder.replay_c,
    mwm_autoencoder.replay_d,
    mwm_dynamics.replay_e,
    mwm_dynamics.replay_f,
    mwm_dynamics.replay_g,
    mwm_behaviour.replay_h,
    mwm_behaviour.replay_i,
    mwm_behaviour.replay_j,
    mwm_agent.replay_k,
    mwm_replay.replay_l,
    mwm_agent.replay_m,
    mwm_agent.replay_n,
)
DMCONTROL_AUXILIARIES: tuple[Replay, ...] = (
    auxiliary_curl.replay_curl,
    auxiliary_sac_ae.replay_sacae,
    auxiliary_drq.replay_drq,
    auxiliary_spr.replay_spr,
    auxiliary_spr.replay_mlrspr,
    auxiliary_spr.replay_cycdm,
)
ATARI_AUXILIARIES: tuple[Replay, ...] = (
    auxiliary_spr_atari.replay_spr,
    auxiliary_spr_atari.replay_pv,
    auxiliary_curl_rainbow.replay_curl_rainbow,
)


# What a folder holds, and what of it is a record that nothing is computed for.
ATARI_FILES = tuple(
    """
    weights_*.npz a_*.npz b_*.npz c_*.npz d_*.npz e_replay_small.npz e_replay_small_fixed_done_n.npz e_replay_real.npz
    f_schedules.npz f_settings.json g_*.npz h_env_*.npz i_noops*.npz i_eval.json j_*.npz
    """.split()
)
DMCONTROL_FILES = tuple(
    """
    state.npz batch.npz a_*.npz b_*.npz c_*.npz d_*.npz e_*.npz f_*.npz g_*.npz h_*.npz i_*.npz i2_*.npz j_*.npz
    """.split()
)
DMCONTROL_AUXILIARY_FILES = tuple(
    f"{name}_{kind}.npz"
    for name in ("curl", "sacae", "spr", "mlrspr", "cycdm")
    for kind in ("state", "batch", "loss", "updates")
) + ("drq_critic.npz",)
ATARI_AUXILIARY_FILES = tuple(
    f"{name}_{kind}.npz" for name in ("spr", "pv") for kind in ("weights", "batch", "loss", "step")
) + ("curl_rainbow_weights.npz", "curl_rainbow_updates.npz")
MWM_FILES = ("sizes.json", *(f"{letter}_*.npz" for letter in "abcdefghijklmn"))
RECORDS = ("d_real_size.json", "real_shapes.json", "README.md")
INPUTS = ("_state.npz", "_batch.npz", "_weights.npz")  # ends of names of files that others are computed from


def run(replays: tuple[Replay, ...], folder: Path) -> Iterator[Check]:
    """The checks of all replays; a file without one, or where a replay stops, is a failed check itself."""
    for replay in replays:
        letter = replay.__name__.removeprefix("replay_")
        found = {path.name for kind in ("npz", "json") for path in folder.glob(f"{letter}*_*.{kind}")} - {*RECORDS}
        unseen = {name for name in found if not name.endswith(INPUTS)}
        if not unseen:
            yield failure(replay.__name__, "no file to compare")
        try:
            for check in replay(folder):
                unseen.discard(check.file)
                yield check
        except Exception as error:  # a file may be damaged in any way, and the other files are to be replayed still
            yield failure(replay.__name__, f"stopped: {type(error).__name__}: {error}")
        else:
            yield from (failure(name, "nothing in it to compare") for name in sorted(unseen))


def missing(folder: Path, patterns: tuple[str, ...]) -> Iterator[Check]:
    for pattern in patterns:
        if not any(folder.glob(pattern)):
            yield failure(pattern, f"missing in {folder}")


def not_replayed(folder: Path, patterns: tuple[str, ...]) -> list[str]:
    """Names of files that no replay looks at."""
    known = {path for pattern in (*patterns, *RECORDS) for path in folder.glob(pattern)}
    return sorted(path.name for path in folder.iterdir() if path not in known) if folder.is_dir() else []


def failure(file: str, what: str) -> Check:
    return Check(file, what, float("inf"), 0.0)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atari", type=Path, default=DATA / "atari")
    parser.add_argument("--dmcontrol", type=Path, default=DATA / "dmcontrol")
    parser.add_argument("--mwm", type=Path, default=DATA / "mwm")
    parser.add_argument("--auxiliaries", type=Path, default=DATA / "auxiliaries")
    options = parser.parse_args(arguments)
    folders = (
        (options.atari, ATARI, ATARI_FILES),
        (options.dmcontrol, DMCONTROL, DMCONTROL_FILES),
        (options.mwm, MWM, MWM_FILES),
        (options.auxiliaries / "atari", ATARI_AUXILIARIES, ATARI_AUXILIARY_FILES),
        (options.auxiliaries / "dmcontrol", DMCONTROL_AUXILIARIES, DMCONTROL_AUXILIARY_FILES),
    )
    checks = [check for folder, replays, files in folders for check in (*missing(folder, files), *run(replays, folder))]
    table = Table("file", "quantity", "largest error", "tolerance", "verdict")
    for check in checks:
        verdict = "ok" if check.passed else "[bold red]off[/]"
        table.add_row(check.file, check.quantity, f"{check.error:.1e}", f"{check.tolerance:.0e}", verdict)
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    failed = [check for check in checks if not check.passed]
    for check in failed:
        print(f"off: {check.file}: {check.quantity}")
    for folder, _, files in folders:
        for name in not_replayed(folder, files):
            print(f"not replayed: {folder / name}")
    print(f"{len(checks) - len(failed)} of {len(checks)} quantities agree")
    return 1 if failed or not checks else 0


if __name__ == "__main__":
    sys.exit(main())
