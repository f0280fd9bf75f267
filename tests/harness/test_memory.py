import platform
import subprocess
import sys

import pytest

from harness.memory import available_bytes
from tests.conftest import ROOT

MACHINE = {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 8000 kB\n"}
UNLIMITED = "9223372036854771712"


def v1(folder, limit, used, cache):
    folder = f"sys/fs/cgroup/memory{folder}"
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat")
    texts = (limit, used, f"active_file 1\ntotal_active_file {cache}\ntotal_inactive_file {cache}\n")
    return {f"{folder}/{name}": text for name, text in zip(names, texts, strict=True)}


def v2(folder, limit, used, cache):
    names = ("memory.max", "memory.current", "memory.stat")
    texts = (limit, used, f"anon 7\nactive_file {cache}\ninactive_file {cache}\nfile 99999\n")
    return {f"sys/fs/cgroup{folder}/{name}": text for name, text in zip(names, texts, strict=True)}


CASES = {
    "no groups": ({}, 8000 * 1024),
    "version 2 in a container": ({"proc/self/cgroup": "0::/\n"} | v2("", "5000", "4000", 1500), 4000),
    "version 2, the outer group is narrower": (
        {"proc/self/cgroup": "0::/user/run\n"} | v2("/user/run", "max", "10", 0) | v2("/user", "3000", "1000", 100),
        2200,
    ),
    "version 1": ({"proc/self/cgroup": "5:cpu:/x\n4:memory:/job\n0::/\n"} | v1("/job", "5000", "4000", 500), 2000),
    "version 1 in a container, named from outside": (
        {"proc/self/cgroup": "4:memory:/docker/1\n"} | v1("", "5000", "4000", 500), 2000,
    ),
    "version 1 without a limit": ({"proc/self/cgroup": "4:memory:/\n"} | v1("", UNLIMITED, "1", 0), 8000 * 1024),
}  # fmt: skip


@pytest.mark.parametrize("files, expected", CASES.values(), ids=CASES.keys())
def test_the_narrowest_limit_counts_and_page_cache_is_free(tmp_path, files, expected):
    for name, text in (MACHINE | files).items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert available_bytes(tmp_path) == expected


def test_freed_memory_is_faulted_in_once():
    """In a process of its own, whose heap no other test has shaped; glibc alone has the parameters."""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("another C library")
    code = """
import resource, sys
from harness.memory import keep_freed_memory
keep_freed_memory() if sys.argv[1] == "kept" else None
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [b"x" * (12 * 2**20) for _ in range(3)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    kept, default = (
        int(subprocess.run([sys.executable, "-c", code, how], cwd=ROOT, capture_output=True, check=True).stdout)
        for how in ("kept", "default")
    )
    assert kept < 100 < default
