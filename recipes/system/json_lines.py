"""A log of one JSON object a line that holds whole lines only, whatever the disk does. Torch-free; knows no keys."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any


class JsonLines:
    """Appends objects to a file of which this process is the only writer. A line that the disk refuses waits in memory for the
    next one; training never stops for it."""

    def __init__(self, path: Path, say: Callable[[str], None] = print, is_ours: Callable[[], bool] = lambda: True) -> None:
        """Cut what a kill left of a last line. `say` is told once when the disk begins to refuse; nothing is written any more
        where `is_ours` says no. Raises: OSError."""
        self.path, self._say, self._is_ours = path, say, is_ours
        self._waiting: list[str] = []
        self._is_failing = False
        _cut_half_a_line(path)

    def append(self, row: dict[str, Any]) -> None:
        """One more line."""
        self._waiting.append(json.dumps(row) + "\n")
        self.flush()

    def flush(self) -> None:
        """Try again to write what waits."""
        if not self._waiting or not self._is_ours():
            return
        try:
            append_whole("".join(self._waiting).encode(), self.path)
        except OSError as error:
            if not self._is_failing:
                self._say(f"warning: {self.path} cannot be written ({error.strerror}); its lines wait in memory, training goes on")
            self._is_failing = True
            return
        self._is_failing = False
        self._waiting.clear()

    def close(self) -> None:
        """Try a last time, and tell what is lost."""
        self.flush()
        if self._waiting and self._is_ours():
            self._say(f"warning: {len(self._waiting)} lines of {self.path} are lost, the disk never took them")
            self._waiting.clear()


def read_rows(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The objects of a log (none where it does not exist), and the number of lines that are none. Raises: OSError."""
    found = [row for _, row in read_lines(path)]
    rows = [row for row in found if row is not None]
    return rows, len(found) - len(rows)


def read_lines(path: Path) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Every whole line of a log with its object, None where it is none. A half last line, which a kill leaves or a writer has not
    ended, is left out. Raises: OSError."""
    for line in path.read_bytes().split(b"\n")[:-1] if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:  # no JSON, or no UTF-8
            row = None
        yield line.decode(errors="replace"), row if isinstance(row, dict) else None


def append_whole(data: bytes, path: Path) -> None:
    """All of it or nothing. Opened each time: a file server that was away gives a new file, and nothing stays open."""
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
    try:
        end = os.fstat(descriptor).st_size
        written = 0
        try:
            while written < len(data):
                written += os.pwrite(descriptor, data[written:], end + written)
        except OSError:
            with suppress(OSError):
                os.ftruncate(descriptor, end)
            raise
    finally:
        os.close(descriptor)


def _cut_half_a_line(path: Path) -> None:
    if not path.exists():
        return
    with path.open("r+b") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)
