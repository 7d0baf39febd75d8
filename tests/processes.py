"""Finds the processes of a process group, for tests that must leave no process behind. Linux only: it reads /proc."""

import time
from pathlib import Path


def processes_of(group: int) -> list[str]:
    """Return the command lines of all processes of the process group `group` that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            if int(fields[2]) == group and fields[0] != "Z":
                found.append((path / "cmdline").read_text().replace("\0", " "))
        except OSError:  # it has just ended
            continue
    return found


def gone(group: int, seconds: float = 10) -> bool:
    """Wait until all processes of the process group have ended. True if that happens within `seconds`."""
    deadline = time.monotonic() + seconds
    while processes_of(group) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not processes_of(group)
