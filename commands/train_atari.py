"""Train Rainbow with MLR on one Atari game: mlr train atari [key=value ...]

Options:
  --help       this text
  --cfg job    print every key and its value, and stop
Several values of a key, such as seed=1,2,3, are for mlr sweep.

Common keys:
  game=pong            any game that ale-py ships, in snake_case
  env=my_module:make   instead of game: an environment of your own with discrete actions, or a Gymnasium id;
                       docs/extending.md
  auxiliary=mlr        or none, the Baseline, or another loss of configs/auxiliary/: docs/auxiliaries.md
  seed=1
  run_dir=FOLDER       the same command again resumes an interrupted run
  device=auto          auto, cpu, cuda or cuda:N
  agent_steps=100000   400,000 emulator frames
  mlr.weight=1.0       and mlr.seq_len, mlr.mask.ratio, mlr.mask.patch_size, mlr.mask.cube_depth, ...

Examples:
  mlr train atari game=pong seed=1
  mlr train atari game=freeway preset=cpu auxiliary=none
  mlr train atari game=alien fidelity=paper mlr.mask.ratio=0.7 experiment=ratio-0.7
"""

from recipes import train


def main() -> int:
    return train("atari", __doc__)


if __name__ == "__main__":  # a sweep starts this file
    raise SystemExit(main())
