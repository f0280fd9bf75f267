"""Train SAC with MLR on one DMControl task: python scripts/train_dmcontrol.py task=NAME [key=value ...]

Options:
  --help       this text
  --cfg job    print every key and its value, and stop
Several values of a key, such as seed=1,2,3, are for scripts/sweep.py.

Common keys:
  task=cartpole_swingup   one of the paper's six tasks, with its settings
  domain=D task_name=N    instead of task: any other task of the dm_control suite, such as domain=walker task_name=run
  budget=100k             or 500k: environment steps (agent steps times environment.action_repeat)
  seed=1
  run_dir=FOLDER          the same command again resumes an interrupted run
  device=auto             auto, cpu, cuda or cuda:N
  mlr.seq_len=16          and mlr.mask.ratio, mlr.mask.patch_size, mlr.mask.cube_depth, mlr.tau, ...

MUJOCO_GL=egl or osmesa chooses how frames are rendered; without it the first one that works is taken.

Examples:
  python scripts/train_dmcontrol.py task=cartpole_swingup seed=1 budget=100k
  python scripts/train_dmcontrol.py task=walker_walk preset=cpu aux=none
  python scripts/train_dmcontrol.py task=reacher_easy fidelity=paper mlr.mask.ratio=0.7 experiment=ratio-0.7
"""

import sys

from dmcontrol.config import DMControlConfig, validate
from harness.command_line import launch
from harness.stop import resume_me_at_a_signal

HINTS = {
    "task": "any other task of the suite: domain=D task_name=N",
    "domain": "or task=NAME for one of the paper's six",
}


def run(config: DMControlConfig) -> int:
    from dmcontrol.training import DMCONTROL  # imports torch, which a refused configuration never needs
    from harness.run import run as train

    return train(config, DMCONTROL)


if __name__ == "__main__":
    resume_me_at_a_signal()
    sys.exit(launch("dmcontrol", DMControlConfig, validate, run, about=__doc__, hints=HINTS))
