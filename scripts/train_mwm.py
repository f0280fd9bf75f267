"""Train Masked World Models on one task: python scripts/train_mwm.py task=NAME [key=value ...]

Options:
  --help       this text
  --cfg job    print every key and its value, and stop
Several values of a key, such as seed=1,2,3, are for scripts/sweep.py.

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
  mwm.mask_ratio=0.75  and mwm.stem, mwm.reward_prediction, mwm.schedule.pretraining, ...

MUJOCO_GL=egl or osmesa chooses how pictures are rendered; without it the first one that works is taken.

Examples:
  python scripts/train_mwm.py task=window_close seed=1
  python scripts/train_mwm.py task=dmc_cartpole_balance preset=quick
  python scripts/train_mwm.py task=reach preset=cpu +ablation=stem_patch
"""

import sys

from harness.stop import resume_me_at_a_signal
from recipes import train

if __name__ == "__main__":
    resume_me_at_a_signal()
    sys.exit(train("mwm", __doc__))
