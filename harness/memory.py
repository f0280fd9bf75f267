"""Memory for a run on the CPU."""

from pathlib import Path


def available_bytes() -> int | None:
    """Bytes that this process may still take: the machine's or, if less, its control group's. None: unknown."""
    limits = [limit for limit in (_of_machine(), _of_group()) if limit is not None]
    return min(limits, default=None)


def _of_machine() -> int | None:
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _of_group() -> int | None:
    folder = Path("/sys/fs/cgroup")
    limit, used = (_lines(folder / name) for name in ("memory.max", "memory.current"))
    if not limit or not used or not limit[0].isdigit():  # "max" is no limit
        return None
    return int(limit[0]) - int(used[0])


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
