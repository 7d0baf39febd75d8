"""What the kernel reports for a pid: whether the process exists, its state and its start time. Standard library only."""

import os
from pathlib import Path
from typing import NamedTuple

STATE, START_TIME = 0, 19
"""Positions of fields in /proc/PID/stat, counted after the command's name."""


class Stat(NamedTuple):
    """State and start of a process.

    `state`: the kernel's letter (R running, S sleeping, T stopped, D waiting for a disk, Z zombie). `start`: clock ticks since the boot of
    the machine.
    """

    state: str
    start: str


def read_stat(pid: int) -> Stat | None:
    """Read state and start of a process; None if it does not exist or /proc hides it."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return Stat(fields[STATE], fields[START_TIME])


def is_alive(pid: int) -> bool:
    """True if a process with this pid exists on this machine, of any user."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
