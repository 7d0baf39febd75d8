"""Stopping on request: a signal, a time limit or a file sets a flag, and the loop reads the flag at step boundaries. The loop saves and
ends the run. Torch-free."""

import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from recipes.cluster.command import exit_at_once
from recipes.errors import Stopped
from recipes.system.processes import STOP_SIGNALS, caught_stop_signals

FILE_PERIOD_SECONDS = 1.0
PATIENCE_SECONDS = 3.0
"""How long a process may take to exit by itself after a second SIGINT."""


class StopRequest:
    """Catches requests to stop, as a context manager. A second SIGINT ends the process at once, even if it hangs."""

    def __init__(self, *, max_minutes: float = 0.0, file: Path | None = None) -> None:
        """A request to stop is a signal, the end of `max_minutes` from now (0: no limit), or the existence of `file` (None: no file).

        Only rank 0 gets these two arguments.
        """
        self.reason: str | None = None
        self.agreed = False
        """Set by the loop on all ranks at the same step, once any rank was asked to stop."""
        self._file, self._next_check = file, 0.0
        self._limit, self._deadline = f"run.max_minutes={max_minutes:g}", time.monotonic() + 60 * max_minutes if max_minutes else None
        self._interrupts = 0
        self._interruptible: str | None = None
        self._previous: dict[int, object] = {}
        self._exited = threading.Event()

    @property
    def is_urgent(self) -> bool:
        """True after a second SIGINT: the process must not wait for anything."""
        return self._interrupts > 1

    def is_requested(self) -> bool:
        """True if a signal, the time limit or the file has asked this process to stop. The loop calls it at every step boundary."""
        now = time.monotonic()
        if self.reason is None and self._deadline is not None and now >= self._deadline:
            self.reason = self._limit
        if self.reason is None and self._file is not None and now >= self._next_check:
            self._next_check = now + FILE_PERIOD_SECONDS
            self.reason = f"the file {self._file.name} (removed)" if self._file.exists() else None
        return self.reason is not None

    def remove_file(self) -> None:
        """Remove the file that requests the stop; else the next launch would stop too. Call it when everything is saved."""
        if self._file is not None:
            with suppress(OSError):
                self._file.unlink()

    @contextmanager
    def interruptible(self, doing: str) -> Iterator[None]:
        """In this block a request to stop raises Stopped once and immediately, instead of taking effect at a step boundary.

        `doing`: what is stopped, for the message.
        """
        self._interruptible = doing
        try:
            self._raise_if_requested()
            yield
        finally:
            self._interruptible = None

    def _raise_if_requested(self) -> None:
        if self.reason is not None and self._interruptible is not None:
            doing, self._interruptible = self._interruptible, None  # a second request must not interrupt the cleanup
            raise Stopped(f"stopped by {self.reason} during {doing}; the same command continues")

    def __enter__(self) -> "StopRequest":
        self._previous = {number: signal.signal(number, self._on_signal) for number in caught_stop_signals()}
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        self._wakeup, self._previous_wakeup = writer, signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        self._previous_mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # the parent process may have blocked them
        threading.Thread(target=self._leave_at_once, args=(reader,), daemon=True, name="interrupt").start()
        return self

    def __exit__(self, *error: object) -> None:
        self._exited.set()
        signal.pthread_sigmask(signal.SIG_SETMASK, self._previous_mask)
        signal.set_wakeup_fd(self._previous_wakeup)
        self._wakeup.close()  # ends the thread
        for number, handler in self._previous.items():
            if handler is not None:  # None: a handler installed in C, which Python cannot restore
                signal.signal(number, handler)  # type: ignore[arg-type]

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.reason = self.reason or signal.Signals(number).name
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                raise KeyboardInterrupt
        self._raise_if_requested()

    def _leave_at_once(self, numbers: socket.socket) -> None:
        """End the process after a second SIGINT, even if the main thread hangs in a collective and so never runs _on_signal.

        Python's C signal handler writes the signal numbers to this socket (signal.set_wakeup_fd)."""
        with numbers:
            interrupts = 0
            while interrupts < 2 and (received := numbers.recv(64)):
                interrupts += received.count(signal.SIGINT)
        if interrupts > 1 and not self._exited.wait(PATIENCE_SECONDS):
            exit_at_once()
