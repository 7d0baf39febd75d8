"""Find the processes of a process group, for tests that must leave no process behind. Linux only: it reads /proc."""

import time
from pathlib import Path


def processes_of(group: int) -> list[str]:
    """Return the command lines of the running processes of a group."""
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
    """True if all processes of the group end within `seconds`."""
    deadline = time.monotonic() + seconds
    while processes_of(group) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not processes_of(group)
