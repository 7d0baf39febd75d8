"""Measures how much of this machine's cores other processes use while a benchmark runs. Linux only; elsewhere nothing is measured."""

import os
import resource
import time
from pathlib import Path

BUSY_SHARE = 0.05
"""Share of the cores that other processes may use before a line says that the machine is busy."""
IDLE_FIELDS = (3, 4)
"""Columns of /proc/stat in which a core computes nothing: idle and waiting for a disk. `steal`, time that the hypervisor took, counts as
foreign load. Source: proc_stat(5)."""
SUMMED_FIELDS = 8  # later columns (guest) are contained in earlier ones


class ForeignLoad:
    """The load by other processes since this object was made. It covers the cores on which this process may run."""

    def __init__(self) -> None:
        self._start, self._busy, self._own = time.monotonic(), busy_seconds(), own_seconds()

    def cores(self) -> float | None:
        """Return how many cores other processes used on average; None if the system does not say."""
        busy, own, elapsed = busy_seconds(), own_seconds(), time.monotonic() - self._start
        if self._busy is None or busy is None or elapsed <= 0:
            return None
        return max(0.0, (busy - self._busy - (own - self._own)) / elapsed)


def busy_seconds() -> float | None:
    """Return the seconds, summed over the cores on which this process may run, in which they computed since the machine started; None
    without /proc/stat."""
    table = Path("/proc/stat")
    if not table.exists():
        return None
    return parse_busy(table.read_text(), os.sched_getaffinity(0)) / os.sysconf("SC_CLK_TCK")


def parse_busy(table: str, cores: set[int]) -> int:
    """Return the ticks in which these cores computed, from the text of /proc/stat."""
    busy = 0
    for line in table.splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in cores:
            busy += sum(int(value) for number, value in enumerate(fields[:SUMMED_FIELDS]) if number not in IDLE_FIELDS)
    return busy


def own_seconds() -> float:
    """Return the processor seconds of this process, its threads, and its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def busy_line(foreign_cores: float | None, cores: int) -> str | None:
    """Return a line if other processes used more than BUSY_SHARE of `cores`; else None."""
    if foreign_cores is None or foreign_cores <= BUSY_SHARE * cores:
        return None
    return f"busy: other processes used {foreign_cores:.1f} of {cores} cores; single times are too long, compare ratios only"
