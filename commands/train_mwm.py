"""Train Masked World Models on one task: mlr train mwm task=NAME [key=value ...]

Options:
  --help       this text
  --cfg job    print every key and its value, and stop
Several values of a key, such as seed=1,2,3, are for mlr sweep.

Common keys:
  task=window_close    a task of Meta-world, in snake_case and without its version
  task=dmc_DOMAIN_TASK or a task of the dm_control suite at 64 pixels, such as dmc_cartpole_balance; manip_NAME: one of
                       dm_control's manipulation tasks
  env=my_module:make   instead of task: an environment of your own with continuous actions, or a Gymnasium id;
                       docs/extending.md
  seed=1
  run_dir=FOLDER       the same command again resumes an interrupted run, also inside the pretraining
  device=auto          auto, cpu, cuda or cuda:N
  env_steps=504000     252,000 agent steps
  world_model=mwm      or pixels, an end-to-end baseline
  mwm.mask_ratio=0.75  and mwm.stem, mwm.reward_prediction, mwm.schedule.pretraining, ...

MUJOCO_GL=egl or osmesa chooses how pictures are rendered; without it the first one that works is taken.

Examples:
  mlr train mwm task=window_close seed=1
  mlr train mwm task=dmc_cartpole_balance preset=quick
  mlr train mwm task=reach preset=cpu +ablation=stem_patch
"""

from recipes import train


def main() -> int:
    return train("mwm", __doc__)


if __name__ == "__main__":  # a sweep starts this file
    raise SystemExit(main())
