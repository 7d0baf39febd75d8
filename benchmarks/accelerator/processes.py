"""Processes that end together: all that descend from one are marked in their environment, whatever session or group they make for
themselves and whoever becomes their parent. Linux only: it reads /proc. Torch-free."""

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
"""What the variables of launchers begin with that tell a process its place."""
PATIENCE_SECONDS, LOOK_SECONDS = 5.0, 0.02


def forget_launcher() -> None:
    """Take a launcher's variables out of this process: a check is a world of its own, also inside of a job."""
    for name in [name for name in os.environ if name.startswith(LAUNCHERS)]:
        del os.environ[name]


def marked(mark: str) -> list[int]:
    """The processes that were started with this mark, and what they started."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended, or is somebody else's
            if f"{MARK}={mark}".encode() in (path / "environ").read_bytes().split(b"\0"):
                found.append(int(path.name))
    return found


def kill_marked(mark: str) -> None:
    """End them all but this process, until none is left: one that is just being started has no mark to read yet. One that the kernel
    does not let go, because of its device, is left after PATIENCE_SECONDS."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and (left := [pid for pid in marked(mark) if pid != os.getpid()]):
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(LOOK_SECONDS)
