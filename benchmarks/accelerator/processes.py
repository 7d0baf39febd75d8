"""End a process with all its descendants. They are found by a mark in their environment, which they inherit even if they make their own
session or process group, or get another parent. Linux only: it reads /proc. Torch-free."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

MARK = "ACCELERATOR_CHECK_MARK"
LAUNCHERS = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE", "LOCAL_WORLD_SIZE", "GROUP_", "ROLE_", "CROSS_", "MASTER_", "TORCHELASTIC_"),
    *("SLURM_STEP_", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "OMPI_COMM_", "PMI_", "PMIX_", "MV2_COMM_"),
)
"""Prefixes of the variables with which launchers give a process its rank and world."""
PATIENCE_SECONDS, LOOK_SECONDS = 5.0, 0.02


def clear_launcher_variables() -> None:
    """Remove a launcher's variables from this process, so that a check inside of a job does not join the job's ranks."""
    for name in [name for name in os.environ if name.startswith(LAUNCHERS)]:
        del os.environ[name]


def marked_processes(mark: str) -> list[int]:
    """Return the ids of the processes with this mark: those started with it and their descendants."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended, or belongs to another user
            if f"{MARK}={mark}".encode() in (path / "environ").read_bytes().split(b"\0"):
                found.append(int(path.name))
    return found


def kill_marked(mark: str) -> None:
    """Kill all processes with this mark, except this one, until none is left. This repeats, because a process that is just being started
    has no readable mark yet. It stops after PATIENCE_SECONDS, because the kernel may keep a process that uses a device."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and (left := [pid for pid in marked_processes(mark) if pid != os.getpid()]):
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(LOOK_SECONDS)
