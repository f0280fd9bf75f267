"""Facts about a GPU, one JSON object a line: what a stage has found out is on the disk at once.

As a plugin of pytest (-p studies.gpu_report.lines) it writes the outcome of each test.
"""

import json
import os
from pathlib import Path

NO_TESTS_LEFT = 5  # pytest's exit code
FILE = "MLR_GPU_REPORT_LINES"  # environment variable: the file for outcomes of tests


def write_line(path: Path, stage: str, /, **values) -> None:
    with path.open("a") as lines:
        lines.write(json.dumps({"stage": stage, **values}) + "\n")


def read_lines(file: Path) -> list[dict]:
    """All whole lines; the last may have been cut off by the end of the budget."""
    found = []
    for line in file.read_text().splitlines() if file.is_file() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def newest_lines(lines: list[dict], stage: str) -> dict[str, dict]:
    """The newest line of each item of a stage."""
    return {line["item"]: line for line in lines if line["stage"] == stage and "item" in line}


def pytest_collection_modifyitems(config, items: list) -> None:
    """Leaves out what passed at an earlier visit."""
    passed = {
        name
        for name, line in newest_lines(read_lines(Path(os.environ[FILE])), "tests").items()
        if line["outcome"] == "passed"
    }
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in passed])
    items[:] = [item for item in items if item.nodeid not in passed]


def pytest_sessionfinish(session, exitstatus: int) -> None:
    """Where all passed earlier, none is left: pytest calls that a failure."""
    if exitstatus == NO_TESTS_LEFT:
        session.exitstatus = 0


def pytest_runtest_logreport(report) -> None:
    if (report.when == "call" or report.outcome != "passed") and "PYTEST_XDIST_WORKER" not in os.environ:
        values = {"outcome": report.outcome, "seconds": round(report.duration, 2)}
        if report.failed:
            values["error"] = str(report.longrepr)[-2000:]
        write_line(Path(os.environ[FILE]), "tests", item=report.nodeid, **values)
