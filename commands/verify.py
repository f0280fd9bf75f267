"""Plays the stored evaluation episodes of runs again and compares every score with the table.

mlr verify results/runs                 # run folders, or folders that hold them
mlr verify scores.csv                   # a table that mlr evaluate --csv wrote

It needs neither a GPU nor a network nor torch. Exit code 0: all as in the tables; 70: something differs.
"""

import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from harness.command_line import Options, at_least, refusing
from harness.config import ConfigError
from harness.exit_codes import DONE, FAILED
from harness.report.scores import score_files
from harness.verification import Verification, folder_of, verify
from harness.worker import SPAWN, end_with_parent
from recipes import load_config, load_suite


@refusing(ConfigError, OSError)
def main(arguments: list[str] | None = None) -> int:
    parser = Options(__doc__)
    parser.add_argument("tables", type=Path, nargs="+", metavar="run_or_table", help="run folders or score files")
    parser.add_argument("--processes", type=at_least(1), default=os.cpu_count(), help="by default one a core")
    options = parser.parse_args(arguments)
    return check(options.tables, options.processes)


def check(paths: list[Path], processes: int) -> int:
    tables = [table for path in paths for table in score_files(path)]
    if not tables:
        raise ConfigError(f"{paths[0]} holds neither a run folder nor a score file")
    found = []
    # A process that plays DMControl without pictures can render none later. A pool starts its processes when needed.
    pools = [ProcessPoolExecutor(processes, mp_context=SPAWN, initializer=end_with_parent) for _ in range(2)]
    with pools[0], pools[1]:
        for table in tables:
            folder = folder_of(table)
            if folder.episodes.is_file():
                config = load_config(folder.path)
                suite = load_suite(config)
                found.append(verify(table, config, suite, pools[suite.make_scorer is None]))
            else:
                found.append(Verification(table, rows=0))
            print("\n  ".join([str(found[-1]), *found[-1].problems]), flush=True)
    if not any(table.played for table in found):
        raise ConfigError("nothing was checked: train or evaluate with this version, which stores the episodes")
    return FAILED if any(table.problems for table in found) else DONE
