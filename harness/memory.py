"""Memory for a run on the CPU."""

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path

# By version of the control groups: folder below sys/fs/cgroup, limit, use, and the reclaimable part of memory.stat.
VERSIONS = {
    1: ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", ("total_active_file", "total_inactive_file")),
    2: ("", "memory.max", "memory.current", ("active_file", "inactive_file")),
}
# Parameters of glibc's mallopt: sizes from which a block is mapped on its own, and a free end of the heap given back.
MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # the former at most 2**25


def available_bytes(root: Path = Path("/")) -> int | None:
    """Bytes that this process may still take: the machine's or, if less, its control groups'. None: unknown."""
    machine = _entries(root / "proc/meminfo").get("MemAvailable:")
    return min([*([] if machine is None else [machine * 1024]), *_of_groups(root)], default=None)


def keep_freed_memory() -> None:
    """Lets glibc keep the memory of an update's tensors for the next update, which otherwise faults its pages in anew.

    Any other C library keeps its own ways.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    for parameter, size in ((MMAP_THRESHOLD, 2**25), (TRIM_THRESHOLD, 2**26)) if mallopt else ():
        mallopt(parameter, size)


def _of_groups(root: Path) -> Iterator[int]:
    """Bytes left to each control group that this process is in, and to those around it."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        below, limit_file, used_file, cached = VERSIONS[1 if controllers else 2]
        mount = root / "sys/fs/cgroup" / below
        group = mount / path.strip("/")
        for folder in (group, *group.parents):
            limit, used = (_lines(folder / name) for name in (limit_file, used_file))
            if limit and used and limit[0].isdigit():  # "max" is no limit
                stat = _entries(folder / "memory.stat")
                yield int(limit[0]) - int(used[0]) + sum(stat.get(name, 0) for name in cached)
            if folder == mount:
                break


def _entries(path: Path) -> dict[str, int]:
    return {words[0]: int(words[1]) for words in map(str.split, _lines(path)) if words[1:] and words[1].isdigit()}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
