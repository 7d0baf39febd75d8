"""Makes stdout and stderr safe: printing never ends or blocks this process. The reader of a pipe may exit, the disk under a log may be
full, a descriptor may be closed, a terminal may be stopped or have no umlauts. Standard library only; independent of what is printed."""

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
"""Bytes that can be written to a ready pipe without blocking."""
PAUSE_SECONDS = 0.01
ERRORS = "terminal"
"""Name of the error handler that escapes characters missing in the encoding."""


class LostOutput(NamedTuple):
    """Output to a stream was lost, and the reason."""

    stream: str
    reason: str


class Descriptor(io.RawIOBase):
    """Descriptor 1 or 2 as a file whose writes never raise. Output that cannot be written is dropped, and the first loss is stored."""

    def __init__(self, number: int, *, warns: bool) -> None:
        """`warns`: print a warning on stderr when output of stdout is lost, and on stdout when output of stderr is lost."""
        super().__init__()
        self.name = f"<{NAMES[number]}>"
        self.max_wait_seconds: float | None = None
        """How long a reader that does not read may block this process; None: without a limit."""
        self.lost: LostOutput | None = None
        self._number, self._warns, self._is_stuck, self._is_reported = number, warns, False, False

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the number of the descriptor."""
        return self._number

    def isatty(self) -> bool:
        """True if the descriptor is a terminal."""
        return os.isatty(self._number)

    def write(self, data) -> int:  # type: ignore[no-untyped-def]  # any bytes-like object
        """Write the bytes `data`. What cannot be written is dropped. Always returns the full size of `data`, as if all was written."""
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
        """Record that output was lost, and why. Print a warning on the other stream if `warns` is set and that stream accepts it. Only the
        first call has an effect."""
        if self.lost is not None:
            return
        self.lost = LostOutput(NAMES[self._number], reason)
        if not self._warns:
            return
        other = 3 - self._number
        line = f"warning: {NAMES[self._number]} is lost ({reason}); what is printed there is dropped, and the command continues\n"
        with suppress(OSError):
            if _is_ready(other, 0):
                os.write(other, line.encode())

    def take_lost(self) -> LostOutput | None:
        """Return the first loss of output, at the first call after it. None at earlier and at later calls."""
        lost = None if self._is_reported else self.lost
        self._is_reported = self.lost is not None
        return lost

    def _is_ready_in_time(self) -> bool:
        """True if the descriptor is ready for a write, after waiting up to max_wait_seconds for that.

        After a timeout, later calls do not wait, until one of them finds the descriptor ready again.
        """
        seconds = 0 if self._is_stuck else self.max_wait_seconds
        self._is_stuck = not _is_ready(self._number, seconds)
        if self._is_stuck:
            self.mark_lost(f"nothing was read for {self.max_wait_seconds:g} s")
        return not self._is_stuck


class Terminal(io.TextIOWrapper):
    """sys.stdout or sys.stderr over a Descriptor. Printing to it never raises."""

    def __init__(self, number: int, before: TextIO | None, *, warns: bool) -> None:
        """Make the stream that replaces `before` on descriptor `number`, with the same encoding.
        `warns`: print a warning on stderr when output of stdout is lost, and on stdout when output of stderr is lost."""
        self.descriptor = Descriptor(number, warns=warns)
        is_unbuffered = getattr(before, "write_through", False)
        super().__init__(
            self.descriptor if is_unbuffered else io.BufferedWriter(self.descriptor),
            encoding=getattr(before, "encoding", "utf-8"),
            errors=ERRORS,
            line_buffering=True,  # a line is in the log file as soon as it is printed
            write_through=is_unbuffered,
        )

    def close(self) -> None:
        """Flush only. If a library closes the stream, other code can still print to it."""
        self.flush()


def protect_terminal(*, warns: bool = False) -> None:
    """Replace sys.stdout and sys.stderr by streams to which printing never raises. A second call does nothing. A stream that does not
    write to descriptor 1 or 2 stays.

    Descriptors 0 to 2 are opened on /dev/null if they are closed. Otherwise a file that is opened later could get one of these numbers,
    and printed text would go into it. `warns`: print a warning on one stream when output of the other is lost.
    """
    codecs.register_error(ERRORS, _escape)
    closed = _open_closed_descriptors()
    for number, name in NAMES.items():
        before = getattr(sys, name)
        is_known = number in closed if before is None else _has_descriptor(before, number)
        if isinstance(before, Terminal) or not is_known:  # another file object was put there; it is left alone
            continue
        with suppress(OSError, AttributeError):
            before.flush()
        terminal = Terminal(number, before, warns=warns)
        if getattr(sys, f"__{name}__") is before:
            setattr(sys, f"__{name}__", terminal)
        setattr(sys, name, terminal)
        if number in closed:
            terminal.descriptor.mark_lost("it was closed from the beginning")


def limit_waiting(seconds: float) -> None:
    """Limit how long printing may block this process, from now on.

    A reader that does not read (Ctrl-S, a stopped pager, a stalled connection) blocks it once, for at most `seconds`. Output that is not
    read by then is lost.
    """
    for terminal in _terminals():
        terminal.descriptor.max_wait_seconds = seconds


def take_lost_outputs() -> list[LostOutput]:
    """Return which of stdout and stderr have lost output since the last call, and why. Each stream is returned at most once."""
    return [lost for terminal in _terminals() if (lost := terminal.descriptor.take_lost())]


def _escape(error: UnicodeError) -> tuple[str | bytes, int]:
    """Codec error handler: write the original bytes of a file name that is not valid text, and escape other characters that the
    encoding lacks (such as \\xfc)."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("backslashreplace")(error)


def _terminals() -> list[Terminal]:
    return [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, Terminal)]


def _open_closed_descriptors() -> list[int]:
    """Open those of descriptors 0 to 2 that are closed, on /dev/null. Returns their numbers."""
    closed = []
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
            os.set_inheritable(number, True)
            closed.append(number)
    return closed


def _has_descriptor(stream: TextIO, number: int) -> bool:
    with suppress(OSError, ValueError, AttributeError):
        return stream.fileno() == number
    return False


def _is_ready(number: int, seconds: float | None) -> bool:
    """True if a write to descriptor `number` would return at once, perhaps with an error. Waits for that up to `seconds` (None: for
    ever)."""
    waiting = select.poll()
    waiting.register(number, select.POLLOUT)
    return bool(waiting.poll(None if seconds is None else 1000 * seconds))
