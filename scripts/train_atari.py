"""Train Rainbow with MLR on one Atari game: python scripts/train_atari.py [key=value ...]

Options:
  --help       this text
  --cfg job    print every key and its value, and stop
Several values of a key, such as seed=1,2,3, are for scripts/sweep.py.

Common keys:
  game=pong            one of the 26 games of Atari-100k, in snake_case
  seed=1
  run_dir=FOLDER       the same command again resumes an interrupted run
  device=auto          auto, cpu, cuda or cuda:N
  agent_steps=100000   400,000 emulator frames
  mlr.weight=1.0       and mlr.seq_len, mlr.mask.ratio, mlr.mask.patch_size, mlr.mask.cube_depth, ...

Examples:
  python scripts/train_atari.py game=pong seed=1
  python scripts/train_atari.py game=freeway preset=cpu aux=none
  python scripts/train_atari.py game=alien fidelity=paper mlr.mask.ratio=0.7 experiment=ratio-0.7
"""

import sys

from atari.config import AtariConfig, validate
from harness.command_line import launch
from harness.stop import resume_me_at_a_signal


def run(config: AtariConfig) -> int:
    from atari.training import ATARI  # imports torch, which a refused configuration never needs
    from harness.run import run as train

    return train(config, ATARI)


if __name__ == "__main__":
    resume_me_at_a_signal()
    sys.exit(launch("atari", AtariConfig, validate, run, about=__doc__))
