"""NCCL's flight recorder: torch keeps the last collectives of each rank, and writes them into a file when a byte arrives in a pipe. The
watcher asks for that file before it ends a rank that hangs. Without a GPU there is no pipe, and nothing happens. Standard library only.

Source: torch 2.13, ProcessGroupNCCL.hpp, DumpPipe. A thread of torch looks into the pipe once a second. Not yet run on a GPU.
"""

import os
import tempfile
from collections.abc import MutableMapping
from contextlib import suppress
from pathlib import Path

SIZE, PIPE, DUMP = "TORCH_NCCL_TRACE_BUFFER_SIZE", "TORCH_NCCL_DEBUG_INFO_PIPE_FILE", "TORCH_NCCL_DEBUG_INFO_TEMP_FILE"
"""Number of collectives that are kept; beginnings of the names of pipe and file, which torch completes by the rank."""
NUM_KEPT = 2000
PICKLE_END = b"."
"""The last byte of the file, which torch writes as a pickle."""


def enable_flight_recorder(environ: MutableMapping[str, str] = os.environ) -> None:
    """Set torch's variables, unless the user or the batch script has. Call it before the first NCCL group is made."""
    folder = tempfile.gettempdir()
    environ.setdefault(SIZE, str(NUM_KEPT))
    environ.setdefault(PIPE, f"{folder}/nccl_pipe_{os.getpid()}_rank_")
    environ.setdefault(DUMP, f"{folder}/nccl_trace_{os.getuid()}_rank_")


def request_dump(rank: int, environ: MutableMapping[str, str] = os.environ) -> Path | None:
    """Ask the process of `rank`, whose variables this process has inherited, for its last collectives. Return the file that it then
    writes; None if it has no pipe. Does not wait. Raises: OSError."""
    if not environ.get(PIPE) or not environ.get(DUMP):
        return None
    dump = Path(f"{environ[DUMP]}{rank}")
    try:
        pipe = os.open(_pipe(rank, environ), os.O_WRONLY | os.O_NONBLOCK)
    except OSError:  # no NCCL group, or nothing reads
        return None
    dump.unlink(missing_ok=True)  # of an earlier launch
    try:
        os.write(pipe, b"dump\n")
    finally:
        os.close(pipe)
    return dump


def is_dumped(dump: Path) -> bool:
    """True if the file of request_dump() is complete. Raises: OSError if it does not exist."""
    return dump.read_bytes().endswith(PICKLE_END)


def remove_pipe(rank: int, environ: MutableMapping[str, str] = os.environ) -> None:
    """Remove the pipe of a process that has ended, if there is one."""
    if environ.get(PIPE):
        with suppress(OSError):
            os.unlink(_pipe(rank, environ))


def _pipe(rank: int, environ: MutableMapping[str, str]) -> str:
    return f"{environ[PIPE]}{rank}.pipe"
