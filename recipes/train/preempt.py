"""Stopping on request: signals, a time limit and a file set a flag, the loop reads it at a step boundary. Saving and leaving is the
loop's. Torch-free."""

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
from recipes.system.processes import STOP_SIGNALS

FILE_PERIOD_SECONDS = 1.0
PATIENCE_SECONDS = 3.0
"""After a second SIGINT: how long a process may take to leave by itself."""


class StopRequest:
    """Listens while it is entered. A second SIGINT stops at once, wherever the process hangs."""

    def __init__(self, *, max_minutes: float = 0.0, file: Path | None = None) -> None:
        """`max_minutes` from now on (0: no limit) and a `file` that appears are requests too; only rank 0 is given them."""
        self.reason: str | None = None
        self.agreed = False
        """Set by the loop when all ranks know that one of them was asked to stop."""
        self._file, self._next_look = file, 0.0
        self._limit, self._deadline = f"run.max_minutes={max_minutes:g}", time.monotonic() + 60 * max_minutes if max_minutes else None
        self._interrupts = 0
        self._interruptible: str | None = None
        self._previous: dict[int, object] = {}
        self._left = threading.Event()

    @property
    def is_urgent(self) -> bool:
        """Whether a second SIGINT came: nothing may be waited for."""
        return self._interrupts > 1

    def is_asked(self) -> bool:
        """Whether anything asks this process to stop; the loop asks at every step boundary."""
        now = time.monotonic()
        if self.reason is None and self._deadline is not None and now >= self._deadline:
            self.reason = self._limit
        if self.reason is None and self._file is not None and now >= self._next_look:
            self._next_look = now + FILE_PERIOD_SECONDS
            self.reason = f"the file {self._file.name} (removed)" if self._file.exists() else None
        return self.reason is not None

    def obeyed(self) -> None:
        """Everything is saved: a file that asked for it goes, or the next launch would stop too."""
        if self._file is not None:
            with suppress(OSError):
                self._file.unlink()

    @contextmanager
    def interruptible(self, doing: str) -> Iterator[None]:
        """In this block a request does not wait for a step boundary. Raises: Stopped, once, naming what it was `doing`."""
        self._interruptible = doing
        try:
            self._raise_if_asked()
            yield
        finally:
            self._interruptible = None

    def _raise_if_asked(self) -> None:
        if self.reason is not None and self._interruptible is not None:
            doing, self._interruptible = self._interruptible, None  # a second request must not disturb the tidying up
            raise Stopped(f"stopped by {self.reason} during {doing}; the same command continues")

    def __enter__(self) -> "StopRequest":
        listened = [number for number in STOP_SIGNALS if not _is_without_terminal(number)]
        self._previous = {number: signal.signal(number, self._note) for number in listened}
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        self._wakeup, self._previous_wakeup = theirs, signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        self._previous_mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # whoever started this may have blocked them
        threading.Thread(target=self._leave_at_once, args=(ours,), daemon=True, name="interrupt").start()
        return self

    def __exit__(self, *error: object) -> None:
        self._left.set()
        signal.pthread_sigmask(signal.SIG_SETMASK, self._previous_mask)
        signal.set_wakeup_fd(self._previous_wakeup)
        self._wakeup.close()  # ends the thread
        for number, handler in self._previous.items():
            if handler is not None:  # None: a library's, in C, which Python cannot put back
                signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.reason = self.reason or signal.Signals(number).name
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                raise KeyboardInterrupt
        self._raise_if_asked()

    def _leave_at_once(self, numbers: socket.socket) -> None:
        """End the process after a second SIGINT even where the main thread is in a collective that never ends, and so never gets to
        _note: the numbers of signals come here straight from the kernel's call."""
        with numbers:
            interrupts = 0
            while interrupts < 2 and (received := numbers.recv(64)):
                interrupts += received.count(signal.SIGINT)
        if interrupts > 1 and not self._left.wait(PATIENCE_SECONDS):
            exit_at_once()


def _is_without_terminal(number: signal.Signals) -> bool:
    """Whether `nohup` started this: a terminal that closes is then no request."""
    return number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN
