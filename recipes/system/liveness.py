"""What the kernel tells of a process, by its number: whether there is one, what it is at, since when. Standard library only."""

import os
from pathlib import Path
from typing import NamedTuple

STATE, START_TIME = 0, 19
"""Fields of /proc/PID/stat after the command's name."""


class Stat(NamedTuple):
    """The kernel's letter for what a process is at (R runs, S sleeps, T is stopped, D waits for a disk, Z is dead), and its start, in
    clock ticks since the machine's."""

    state: str
    start: str


def read_stat(pid: int) -> Stat | None:
    """None where there is no such process, or /proc hides it."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return Stat(fields[STATE], fields[START_TIME])


def is_alive(pid: int) -> bool:
    """Whether a process of this machine has that number, whoever owns it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
