"""Everything around an agent and its environment: loop, checkpoints, evaluation, logs, command line."""

import os

# Read by torch's OpenMP when torch is imported. Spinning threads starve each other where a core has other work: there
# an update of preset=quick on two threads ran 6.4 times a second with threads that wait asleep, 0.7 times without.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
