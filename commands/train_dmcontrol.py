"""Train SAC with MLR on one DMControl task: mlr train dmcontrol task=NAME [key=value ...]

Options:
  --help       this text
  --cfg job    print every key and its value, and stop
Several values of a key, such as seed=1,2,3, are for mlr sweep.

Common keys:
  task=cartpole_swingup   one of the paper's six tasks, with its settings
  domain=D task_name=N    instead of task: any other task of the dm_control suite, such as domain=walker task_name=run
  env=my_module:make      instead of task: an environment of your own with continuous actions, or a Gymnasium id;
                          docs/extending.md
  auxiliary=mlr           or none, the Baseline, or another loss of configs/auxiliary/: docs/auxiliaries.md
  +original=curl          the released agent of another method: curl, drq, playvirtual, sac_ae, spr
  budget=100k             or 500k: environment steps (agent steps times environment.action_repeat)
  seed=1
  run_dir=FOLDER          the same command again resumes an interrupted run
  device=auto             auto, cpu, cuda or cuda:N
  mlr.seq_len=16          and mlr.mask.ratio, mlr.mask.patch_size, mlr.mask.cube_depth, mlr.tau, ...

MUJOCO_GL=egl or osmesa chooses how frames are rendered; without it the first one that works is taken.

Examples:
  mlr train dmcontrol task=cartpole_swingup seed=1 budget=100k
  mlr train dmcontrol task=walker_walk preset=cpu auxiliary=none
  mlr train dmcontrol task=reacher_easy fidelity=paper mlr.mask.ratio=0.7 experiment=ratio-0.7
"""

from recipes import train


def main() -> int:
    return train("dmcontrol", __doc__)


if __name__ == "__main__":  # a sweep starts this file
    raise SystemExit(main())
