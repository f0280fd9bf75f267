"""Trial disk: a disk that is full at any write, a folder that is read-only or removed."""

import contextlib
import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tests.trials.runs import PATIENCE, Case, Run, at_file_operation, end, one_line, references


def disk(count: int, random: Random, scratch: Path) -> Iterator[Case]:
    reference = references(scratch.parent)
    ways = [refused_write, removed_folder, full_output]
    if may_mount(scratch):
        ways += [small_disk, read_only]
    for number in range(count):
        suite = random.choice(list(reference))
        uninterrupted, seconds = reference[suite]
        way = ways[number % len(ways)]
        folder = scratch / f"disk-{number}"
        folder.mkdir()
        run = Run(folder / "run", suite)
        with mounted(folder) if way in (small_disk, read_only) else contextlib.nullcontext():
            yield way(run, uninterrupted, seconds, random)
        shutil.rmtree(folder)


def failed_well(run: Run, code: int, reference: Run) -> str:
    """Problem unless the process ended by itself, as it must on a full disk, and the run can be finished."""
    if code not in (0, 74):
        return f"exit {code}: {run.errors}"
    return (one_line(run.errors) if code else "") or run.ends_like(reference)


def refused_write(run: Run, reference: Run, seconds: float, random: Random) -> Case:
    number = random.choice([errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])

    def fail() -> None:
        raise OSError(number, os.strerror(number))

    code = run.finish(prepare=at_file_operation(random.randrange(2, 60), run.folder, fail))
    return Case(f"refused operation, exit {code}", failed_well(run, code, reference))


def small_disk(run: Run, reference: Run, seconds: float, random: Random) -> Case:
    disk = run.folder.parent
    used = sum(path.stat().st_size for path in reference.folder.rglob("*")) / 2**20
    remount(disk, f"size={int(random.uniform(0.05, 1.5) * used * 1024)}k")
    code = run.finish(output=reference.folder.with_suffix(".full"))
    errors = run.errors if code else ""
    remount(disk, "size=1g")
    problem = (one_line(errors) if code else "") or ("" if code in (0, 74) else f"exit {code}: {errors}")
    return Case(f"small disk, exit {code}", problem or run.ends_like(reference))


def read_only(run: Run, reference: Run, seconds: float, random: Random) -> Case:
    disk = run.folder.parent
    if random.random() < 0.5:  # in the middle of a run
        end(run.start(), random.uniform(0, seconds))
    elsewhere = Run(disk.with_suffix(".streams"), run.suite)
    elsewhere.config = run.config
    remount(disk, "ro")
    code = elsewhere.finish()
    finished = code == 0 and "is finished" in elsewhere.output
    right = 74 if run.folder.exists() else 2  # a folder that cannot be made is a wrong run_dir
    problem = "" if finished else one_line(elsewhere.errors) + ("" if code == right else f"exit {code}")
    remount(disk, "rw")
    return Case(f"read-only, exit {code}", problem or run.ends_like(reference))


def removed_folder(run: Run, reference: Run, seconds: float, random: Random) -> Case:
    process = run.start()
    process.join(random.uniform(0.1, 1) * seconds)
    shutil.rmtree(run.folder, ignore_errors=True)
    hung = end(process, PATIENCE)
    gone = not any(run.folder.glob("*"))
    problem = "hung" if hung else "" if gone or process.exitcode == 0 else f"left {os.listdir(run.folder)}"
    return Case(f"removed, exit {process.exitcode}", problem or failed_well(run, process.exitcode, reference))


def full_output(run: Run, reference: Run, seconds: float, random: Random) -> Case:
    """The printing ends, and the run goes on."""
    code = run.finish(output=Path("/dev/full"))
    problem = f"exit {code}: {run.errors}" if code or run.errors.count("\n") != 1 else run.differences(reference)
    return Case(f"full output, exit {code}", problem)


def may_mount(scratch: Path) -> bool:
    point = scratch / "mount"
    point.mkdir()
    try:
        with mounted(point):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@contextlib.contextmanager
def mounted(point: Path) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", point], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", point], check=True)


def remount(point: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", point], check=True)
