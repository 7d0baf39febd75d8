"""Why a run failed, from what it has printed. Standard library only."""

import os
from contextlib import suppress
from pathlib import Path

BLOCK = 1 << 16
PREFIX = "error: "


def printed_error(log: Path) -> str:
    """Return the last error line of a run's output, without its prefix; else its last line, such as that of a traceback; "" if there is
    no output."""
    lines: list[str] = []
    with suppress(OSError), log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - BLOCK))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
    found = [line.removeprefix(PREFIX) for line in lines if line.startswith(PREFIX)]
    return (found or [line for line in lines if line] or [""])[-1]


def ending_of(code: int, log: Path) -> str:
    """Return why a process ended, in one line. `code`: its exit code, negative for a signal. `log`: what it has printed."""
    if code < 0:
        return f"killed by signal {-code}"
    return printed_error(log) or f"ended with exit code {code}"
