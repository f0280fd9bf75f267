"""Builds tables, figures and one page from the scores of runs and from the published ones.

mlr report runs results/runs --out report --media
mlr report --scores mine.csv --out report    # a list of scores: method, task, run, score
mlr report --out report       # the published tables alone
"""

import argparse
from importlib.util import find_spec
from pathlib import Path

from harness.command_line import Options, at_least, refusing
from harness.config import ConfigError, require
from harness.files import installation
from recipes import SUITE_SCORES


@refusing(ConfigError, OSError)
def main(arguments: list[str] | None = None) -> int:
    parser = Options(__doc__)
    parser.add_argument("runs", type=Path, nargs="*", help="run folders, score files, or folders that hold them")
    parser.add_argument("--out", type=Path, required=True, help="folder for tables/, figures/ and index.html")
    parser.add_argument("--scores", type=Path, nargs="+", default=[], help="lists of single runs, yours first")
    parser.add_argument("--media", action="store_true", help="put the runs' last videos into the page")
    parser.add_argument("--repeats", type=at_least(1), help="resamples of each interval")
    options = parser.parse_args(arguments)
    report(options)
    return 0


def report(options: argparse.Namespace) -> None:
    from harness.report.methods import read_scores
    from harness.report.report import write_report
    from harness.report.scores import read_runs
    from recipes.changes import identify

    for package in ("rliable", "arch", "pandas"):
        require(find_spec(package) is not None, f"{package} is missing: {installation('report')}")
    runs = read_runs(options.runs, SUITE_SCORES, identify)
    settings = {} if options.repeats is None else {"repeats": options.repeats}
    for name, files in (("listed", options.scores[:1]), ("others", options.scores[1:])):
        settings[name] = read_scores(files, SUITE_SCORES)
    written, tables = write_report(runs, SUITE_SCORES, options.out, options.media, **settings)
    for table in tables:
        print(table.terminal())
    for path in written:
        print(f"{path}  {path.stat().st_size / 1e3:,.0f} kB")
    for folder in ("tables", "figures"):
        for path in sorted(set((options.out / folder).glob("*")) - set(written)):
            print(f"{path} is of an earlier report")
