"""The rank's side of the watch: writes heartbeats, reports the exit code, and starts the watcher process. Torch-free.

A rank cannot detect its own hang. A small process beside it does that: watcher.py. endings.py reads what the watchers write.
"""

import faulthandler
import json
import mmap
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from recipes.errors import EXIT_DEFECT, EXIT_INTERRUPTED
from recipes.system.processes import stop_signals_blocked
from recipes.watch.heartbeat import SIZE, Heartbeat, Memory, read_heartbeat, renew_heartbeat, write_heartbeat
from recipes.watch.watcher import DUMP_SIGNAL, MAIN_DUMP_SIGNAL, WatchTarget

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = "import sys; sys.path.insert(0, sys.argv[1]); from recipes.watch.watcher import main; main(*map(int, sys.argv[2:]))"
MAX_MESSAGE_CHARACTERS = 600  # characters of up to six bytes each: the whole record must fit into one atomic write to a pipe
CLOSE_SECONDS = 10.0
"""How long a rank that ends waits until its watcher has written the record. Bounded, because the file server may be dead."""


class Watch:
    """Writes the heartbeats of this rank, and starts the watcher process that reads them. Before start() there is no watcher and
    heartbeats have no effect."""

    def __init__(self, folder: Path, rank: int, hosts: Sequence[str], hang_seconds: float) -> None:
        """`folder`: RUN_DIR/watch, where the watchers write. `rank`: this rank. `hosts`: the host of every rank. `hang_seconds`: time
        without a heartbeat that counts as a hang; 0 turns hang detection off."""
        thread = threading.main_thread().ident or 0
        self._target = WatchTarget(str(folder.absolute()), rank, list(hosts), os.getpid(), thread, hang_seconds)
        self._memory: Memory = bytearray(SIZE)
        self._count, self._step, self._paused = 0, 0, False
        self._watcher: subprocess.Popen[bytes] | None = None
        self._pipe: int | None = None
        self._files: list[int] = []
        self._has_reported = False

    def start(self) -> None:
        """Start the watcher process without waiting for it."""
        memory, stacks = _memory_file("heartbeat"), _memory_file("stacks")  # in memory, so that a slow disk cannot block them
        reading, self._pipe = os.pipe()
        os.pwrite(memory, bytes(SIZE) + json.dumps(asdict(self._target)).encode(), 0)
        self._memory, self._files = mmap.mmap(memory, SIZE), [stacks]
        self.beat(self._step, "start")
        faulthandler.register(DUMP_SIGNAL, file=stacks, all_threads=True)
        faulthandler.register(MAIN_DUMP_SIGNAL, file=stacks, all_threads=False)
        # -I and -S: otherwise a module of the current folder or of the user could replace one of the standard library.
        command = [sys.executable, "-I", "-S", "-c", PROGRAM, str(ROOT), *map(str, (memory, reading, stacks))]
        with stop_signals_blocked():  # a stop request to the process group must not end it before its rank
            self._watcher = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=(memory, reading, stacks), cwd="/"
            )
        os.close(reading)
        os.close(memory)

    def beat(self, step: int, phase: str, micro_batch: int = 0) -> None:
        """Write a heartbeat: training has reached this place. All ranks must call this in the same order. `step`: updates applied."""
        self._count, self._step = self._count + 1, step
        write_heartbeat(self._memory, self._count, step, micro_batch, phase, is_paused=self._paused)

    @property
    def place(self) -> Heartbeat:
        """The last heartbeat: the place of this rank in training."""
        return read_heartbeat(self._memory)

    def alive(self) -> None:
        """Report progress at the same place. Unlike beat(), ranks may call this a different number of times."""
        renew_heartbeat(self._memory)

    @contextmanager
    def paused(self, phase: str) -> Iterator[None]:
        """Suspend hang detection for this rank in this block, which may last long. A hang of another rank still ends this one.

        `phase`: the name of the block in the heartbeat.
        """
        self._paused = True
        self.beat(self._step, phase)
        try:
            yield
        finally:
            self._paused = False
            self.beat(self._step, phase)

    def end(self, code: int, message: str = "") -> int:
        """Report the exit code of this rank to its watcher, which writes the record. Only the first call counts. Returns the code."""
        if self._pipe is not None and not self._has_reported:
            ending = {"code": code, "message": message[:MAX_MESSAGE_CHARACTERS], "time": time.time(), "beat": read_heartbeat(self._memory)}
            with suppress(BrokenPipeError):  # the watcher was killed
                os.write(self._pipe, json.dumps(ending).encode())
        self._has_reported = True
        return code

    def report_error(self, error: BaseException) -> None:
        """Report to the watcher that this rank ends with `error`: its exit code and message."""
        default = EXIT_INTERRUPTED if isinstance(error, KeyboardInterrupt) else EXIT_DEFECT
        self.end(getattr(error, "exit_code", default), str(error) if hasattr(error, "exit_code") else f"{type(error).__name__}: {error}")

    def close(self) -> None:
        """Close the pipe to the watcher, and wait until the watcher has ended, at most CLOSE_SECONDS. Does nothing without a watcher."""
        if self._watcher is None or self._pipe is None:
            return
        os.close(self._pipe)
        self._pipe = None
        with suppress(subprocess.TimeoutExpired):
            self._watcher.wait(CLOSE_SECONDS)
        faulthandler.unregister(DUMP_SIGNAL)
        faulthandler.unregister(MAIN_DUMP_SIGNAL)
        for file in self._files:
            os.close(file)
        self._memory, self._watcher = bytearray(SIZE), None


def _memory_file(name: str) -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name)
    file = tempfile.TemporaryFile()  # noqa: SIM115 - not Linux
    return os.dup(file.fileno())
