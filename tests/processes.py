"""What lives in a process group, for tests that leave nothing behind. Linux only: it reads /proc."""

import time
from pathlib import Path


def processes_of(group: int) -> list[str]:
    """Command lines of what lives in a process group."""
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
    """Whether nothing lives in it any more, after at most so long."""
    deadline = time.monotonic() + seconds
    while processes_of(group) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not processes_of(group)
