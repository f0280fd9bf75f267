"""Exit codes of every command."""

DONE = 0
REFUSED = 2  # wrong input
FAILED = 70  # a number that is none, or counts that are wrong
DISK_FAILED = 74
RESUME_ME = 75  # stopped by a signal after a checkpoint: the same command goes on
