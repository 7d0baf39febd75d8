"""A rank's side of the watch: signs of life, last words, and the process that sees to both being heard. Torch-free.

A rank cannot notice itself that it hangs, so a small process beside it does: watcher.py. What all ranks leave: endings.py.
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
from recipes.watch.heartbeat import SIZE, Heartbeat, Memory, read_heartbeat, write_heartbeat, renew_heartbeat
from recipes.watch.watcher import DUMP_SIGNAL, WatchTarget

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = "import sys; sys.path.insert(0, sys.argv[1]); from recipes.watch.watcher import main; main(*map(int, sys.argv[2:]))"
MAX_MESSAGE_CHARACTERS = 600  # characters, of up to six bytes: with the rest less than a pipe takes at once
CLOSE_SECONDS = 10.0
"""How long a rank that ends waits for its watcher to have written: a dead file server must not keep it."""


class Watch:
    """The signs of life of this process. Until start() they go nowhere, and nobody watches."""

    def __init__(self, folder: Path, rank: int, hosts: Sequence[str], hang_seconds: float) -> None:
        """`folder`: where the watchers write; `hosts`: of every rank; `hang_seconds`: silence that is a hang, 0 for none."""
        thread = threading.main_thread().ident or 0
        self._target = WatchTarget(str(folder.absolute()), rank, list(hosts), os.getpid(), thread, hang_seconds)
        self._memory: Memory = bytearray(SIZE)
        self._count, self._step, self._paused = 0, 0, False
        self._watcher: subprocess.Popen[bytes] | None = None
        self._pipe: int | None = None
        self._files: list[int] = []
        self._has_reported = False

    def start(self) -> None:
        """Start the watcher, and do not wait for it."""
        memory, stacks = _memory_file("heartbeat"), _memory_file("stacks")  # no disk can make them wait
        reading, self._pipe = os.pipe()
        os.pwrite(memory, bytes(SIZE) + json.dumps(asdict(self._target)).encode(), 0)
        self._memory, self._files = mmap.mmap(memory, SIZE), [stacks]
        self.beat(self._step, "start")
        faulthandler.register(DUMP_SIGNAL, file=stacks, all_threads=True)
        # Isolated and without site: else a module of this folder or of the user could stand in for one of the library.
        command = [sys.executable, "-I", "-S", "-c", PROGRAM, str(ROOT), *map(str, (memory, reading, stacks))]
        with stop_signals_blocked():  # it outlives its rank, whoever else is asked to stop
            self._watcher = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=(memory, reading, stacks), cwd="/"
            )
        os.close(reading)
        os.close(memory)

    def beat(self, step: int, phase: str, micro_batch: int = 0) -> None:
        """Training has come here: a sign of life. To be called by all ranks in the same order; `step`: updates applied so far."""
        self._count, self._step = self._count + 1, step
        write_heartbeat(self._memory, self._count, step, micro_batch, phase, is_paused=self._paused)

    @property
    def place(self) -> Heartbeat:
        """The last sign of life: where in training this rank is."""
        return read_heartbeat(self._memory)

    def alive(self) -> None:
        """Still at the same place but getting on, where the ranks do not do so equally often."""
        renew_heartbeat(self._memory)

    @contextmanager
    def paused(self, phase: str) -> Iterator[None]:
        """In this block silence is no hang, since nobody knows how long it takes; unless another rank hangs outside of it."""
        self._paused = True
        self.beat(self._step, phase)
        try:
            yield
        finally:
            self._paused = False
            self.beat(self._step, phase)

    def end(self, code: int, message: str = "") -> int:
        """How this rank ends, which its watcher writes down. The first words count. Returns the code."""
        if self._pipe is not None and not self._has_reported:
            words = {"code": code, "message": message[:MAX_MESSAGE_CHARACTERS], "time": time.time(), "beat": read_heartbeat(self._memory)}
            with suppress(BrokenPipeError):  # somebody has killed the watcher
                os.write(self._pipe, json.dumps(words).encode())
        self._has_reported = True
        return code

    def end_with(self, error: BaseException) -> None:
        """The last words of a rank that an error ends."""
        default = EXIT_INTERRUPTED if isinstance(error, KeyboardInterrupt) else EXIT_DEFECT
        self.end(getattr(error, "exit_code", default), str(error) if hasattr(error, "exit_code") else f"{type(error).__name__}: {error}")

    def close(self) -> None:
        """Let the watcher go, and wait until it has."""
        if self._watcher is None or self._pipe is None:
            return
        os.close(self._pipe)
        self._pipe = None
        with suppress(subprocess.TimeoutExpired):
            self._watcher.wait(CLOSE_SECONDS)
        faulthandler.unregister(DUMP_SIGNAL)
        for file in self._files:
            os.close(file)
        self._memory, self._watcher = bytearray(SIZE), None


def _memory_file(name: str) -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name)
    file = tempfile.TemporaryFile()  # noqa: SIM115 - not Linux
    return os.dup(file.fileno())
