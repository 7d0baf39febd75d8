"""What this process prints, and that printing never ends it: whoever reads may leave, the disk under a log may be full, a descriptor may be
closed, a terminal may be stopped or know no umlauts. Standard library only; knows nothing of what is printed."""

import codecs
import io
import os
import select
import sys
import time
from contextlib import suppress
from typing import NamedTuple, TextIO

NAMES = {1: "stdout", 2: "stderr"}
ATOMIC_BYTES = select.PIPE_BUF
"""Bytes that a pipe which is ready takes without making the writer wait."""
PAUSE_SECONDS = 0.01
ERRORS = "terminal"
"""Name of the error handler that escapes what an encoding has no letters for."""


class LostOutput(NamedTuple):
    """What was printed to a stream has not arrived, and why."""

    stream: str
    reason: str


class Descriptor(io.RawIOBase):
    """Descriptor 1 or 2 as a file that takes everything: what the system refuses is dropped, and the first refusal is remembered."""

    def __init__(self, number: int, *, tells: bool) -> None:
        """`tells`: a line on the other one says that this one is lost."""
        super().__init__()
        self.name = f"<{NAMES[number]}>"
        self.max_wait_seconds: float | None = None
        """How long a reader that takes nothing may hold this process up; None: as long as it likes."""
        self.loss: LostOutput | None = None
        self._number, self._warns, self._is_stuck, self._is_reported = number, tells, False, False

    def writable(self) -> bool:
        """It is."""
        return True

    def fileno(self) -> int:
        """Its number."""
        return self._number

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(self._number)

    def write(self, data) -> int:  # type: ignore[no-untyped-def]  # whatever has bytes
        """All of it, or as much as is taken; the caller is told all."""
        view = memoryview(data).cast("B")
        size = len(view)
        try:
            while view and self._is_ready_in_time():
                with suppress(BlockingIOError):
                    view = view[os.write(self._number, view[:ATOMIC_BYTES]) :]
                    continue
                time.sleep(PAUSE_SECONDS)
        except OSError as error:
            self.mark_lost(error.strerror or str(error))
        return size

    def mark_lost(self, reason: str) -> None:
        """Remember the first loss and tell it where that still works."""
        if self.loss is not None:
            return
        self.loss = LostOutput(NAMES[self._number], reason)
        if not self._warns:
            return
        other = 3 - self._number
        line = f"warning: {NAMES[self._number]} is lost ({reason}); what is printed there goes nowhere, and the command goes on\n"
        with suppress(OSError):
            if _is_ready(other, 0):
                os.write(other, line.encode())

    def take_lost(self) -> LostOutput | None:
        """The first loss, once."""
        loss = None if self._is_reported else self.loss
        self._is_reported = self.loss is not None
        return loss

    def _is_ready_in_time(self) -> bool:
        """Whether it takes something now, or within the patience that is left: all of it the first time, none until it has got on."""
        seconds = 0 if self._is_stuck else self.max_wait_seconds
        self._is_stuck = not _is_ready(self._number, seconds)
        if self._is_stuck:
            self.mark_lost(f"nothing was taken for {self.max_wait_seconds:g} s")
        return not self._is_stuck


class Terminal(io.TextIOWrapper):
    """sys.stdout or sys.stderr over a Descriptor. No print to it raises."""

    def __init__(self, number: int, before: TextIO | None, *, tells: bool) -> None:
        """In place of the stream `before`, with its encoding."""
        self.descriptor = Descriptor(number, tells=tells)
        is_unbuffered = getattr(before, "write_through", False)
        super().__init__(
            self.descriptor if is_unbuffered else io.BufferedWriter(self.descriptor),
            encoding=getattr(before, "encoding", "utf-8"),
            errors=ERRORS,
            line_buffering=True,  # a log file shows what is said when it is said
            write_through=is_unbuffered,
        )

    def close(self) -> None:
        """Nothing is closed: what a library closes the others still print to."""
        self.flush()


def protect_terminal(*, tells: bool = False) -> None:
    """Make sys.stdout and sys.stderr of this process Terminals, where they are descriptors 1 and 2 or closed; once is enough.

    Descriptors 0, 1 and 2 are never free afterwards, so that no file which is opened later gets what is printed. `tells`: say on the one
    that the other is lost.
    """
    codecs.register_error(ERRORS, _escape)
    closed = _open_closed_descriptors()
    for number, name in NAMES.items():
        before = getattr(sys, name)
        is_known = number in closed if before is None else _has_descriptor(before, number)
        if isinstance(before, Terminal) or not is_known:  # a file that somebody put there takes what it takes
            continue
        with suppress(OSError, AttributeError):
            before.flush()
        terminal = Terminal(number, before, tells=tells)
        if getattr(sys, f"__{name}__") is before:
            setattr(sys, f"__{name}__", terminal)
        setattr(sys, name, terminal)
        if number in closed:
            terminal.descriptor.mark_lost("it was closed from the beginning")


def limit_waiting(seconds: float) -> None:
    """From now on a reader that takes nothing (Ctrl-S, a stopped pager, a connection that stands) holds this process up once, and no
    longer than that; what it does not take is lost."""
    for terminal in _terminals():
        terminal.descriptor.max_wait_seconds = seconds


def take_losses() -> list[LostOutput]:
    """What was lost since the last call; of each stream the first loss alone is ever told."""
    return [loss for terminal in _terminals() if (loss := terminal.descriptor.take_lost())]


def _escape(error: UnicodeError) -> tuple[str | bytes, int]:
    """Bytes of a name that is no text go out as they came in; a letter that the encoding lacks becomes \\xfc."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("backslashreplace")(error)


def _terminals() -> list[Terminal]:
    return [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, Terminal)]


def _open_closed_descriptors() -> list[int]:
    """Open what is closed of the first three descriptors on nothing, and say which."""
    closed = []
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
            os.set_inheritable(number, True)
            closed.append(number)
    return closed


def _has_descriptor(stream: TextIO, number: int) -> bool:
    with suppress(OSError, ValueError, AttributeError):
        return stream.fileno() == number
    return False


def _is_ready(number: int, seconds: float | None) -> bool:
    """Whether a write returns at once, if only with an error, now or within that time."""
    waiting = select.poll()
    waiting.register(number, select.POLLOUT)
    return bool(waiting.poll(None if seconds is None else 1000 * seconds))
