"""The command `mlr`; each of what it does is also a script."""

import importlib
import sys

from harness.config import ConfigError
from harness.exit_codes import DONE
from harness.messages import refuse
from harness.output import lasting_output

# No docstring: Python drops those under -OO.
HELP = """One command for all that can be done with runs; each is also a script.

mlr train atari game=pong           train, or go on; also dmcontrol or mwm task=NAME
mlr evaluate RUN                    score a run's weights
mlr report RUNS --out report        tables, figures and a page beside the published scores
mlr sweep table=atari100k seeds=3   many runs
mlr inspect RUN                     a digest of each part of a run
mlr verify RUNS                     every score of a table played again
mlr compare RUN random OTHER        agents of one task side by side: scores, a video and a picture
mlr share RUN --out FOLDER          card, weights and video of a trained agent; pushes it to the Hugging Face Hub
mlr visualize game=pong             pictures of a mask, or of what a trained agent predicts
mlr COMMAND --help                  what it takes
"""
MODULES = {
    "train atari": "commands.train_atari",
    "train dmcontrol": "commands.train_dmcontrol",
    "train mwm": "commands.train_mwm",
    "evaluate": "commands.evaluate",
    "report": "commands.report",
    "sweep": "commands.sweep",
    "inspect": "commands.inspect_run",
    "verify": "commands.verify",
    "compare": "commands.compare",
    "share": "commands.share",
    "visualize": "studies.visualize",
}


@lasting_output()
def main() -> int:
    """Exit code of the command that the command line names."""
    words = sys.argv[1:]
    if words in ([], ["-h"], ["--help"]):
        print(HELP)
        return DONE
    count = 2 if words[0] == "train" else 1
    name = " ".join(words[:count])
    if name not in MODULES:
        return refuse(ConfigError(f"mlr {name} is no command; there are {', '.join(MODULES)}"))
    sys.argv = [f"mlr {name}", *words[count:]]
    return importlib.import_module(MODULES[name]).main()
