"""Locks and flushes, also on a file system that offers none."""

import errno
import fcntl
import functools
import os
import sys

NO_LOCK = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF)
NO_SYNC = (errno.EINVAL, errno.EOPNOTSUPP)


@functools.cache
def warn(line: str) -> None:
    """Prints a line once."""
    print(f"note: {line}", file=sys.stderr)


def lock(file, operation: int) -> bool:
    """fcntl.flock; False if another holds the lock. A line says so where the file system has no locks."""
    try:
        fcntl.flock(file, operation)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCK:
            raise
        warn("no locks on this file system: nothing keeps a second process out of a run folder")
    return True


def sync(descriptor: int) -> None:
    """os.fsync; a line says so where the file system does not flush such a file or directory."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise
        warn("no flush to the disk on this file system: a power cut may cost the newest checkpoint and rows")
