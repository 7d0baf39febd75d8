"""A log with one JSON object per line. It contains complete lines only, even if the disk is full or fails. Torch-free; independent of
the keys."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any


class JsonLines:
    """Appends objects to a file of which this process is the only writer.

    If a write fails, the line is kept in memory and written with the next one. Training continues.
    """

    def __init__(self, path: Path, say: Callable[[str], None] = print, is_ours: Callable[[], bool] = lambda: True) -> None:
        """Prepare to append to `path`, and remove an incomplete last line, which a killed process left. `say` prints one warning when
        writes begin to fail. Nothing is written while `is_ours` returns False. Raises: OSError."""
        self.path, self._say, self._is_ours = path, say, is_ours
        self._waiting: list[str] = []
        self._is_failing = False
        _cut_incomplete_line(path)

    @property
    def is_failing(self) -> bool:
        """True if the last write failed, so that lines are kept in memory."""
        return self._is_failing

    def append(self, row: dict[str, Any]) -> None:
        """Append `row` as one line. If the disk fails, keep the line in memory until a later write succeeds."""
        self._waiting.append(json.dumps(row) + "\n")
        self.flush()

    def flush(self) -> None:
        """Try to write the lines that are kept in memory."""
        if not self._waiting or not self._is_ours():
            return
        try:
            append_whole("".join(self._waiting).encode(), self.path)
        except OSError as error:
            if not self._is_failing:
                self._say(f"warning: {self.path} cannot be written ({error.strerror}); its lines are kept in memory, training continues")
            self._is_failing = True
            return
        self._is_failing = False
        self._waiting.clear()

    def close(self) -> None:
        """Try a last time to write the lines that are kept in memory. If that fails, print how many are lost."""
        self.flush()
        if self._waiting and self._is_ours():
            self._say(f"warning: {len(self._waiting)} lines of {self.path} are lost, they could not be written")
            self._waiting.clear()


def read_rows(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the objects of a log in their order ([] if there is no file), and the number of its damaged lines. Raises: OSError."""
    found = [row for _, row in read_lines(path)]
    rows = [row for row in found if row is not None]
    return rows, len(found) - len(rows)


def read_lines(path: Path) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Yield (line, object) for every complete line of a log, in order. The object is None if the line is no JSON object.

    An incomplete last line is ignored: a kill left it, or it is being written. Raises: OSError.
    """
    for line in path.read_bytes().split(b"\n")[:-1] if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:  # not JSON, or not UTF-8
            row = None
        yield line.decode(errors="replace"), row if isinstance(row, dict) else None


def append_whole(data: bytes, path: Path) -> None:
    """Append all of `data` or nothing. The file is opened each time: after a failure of the file server an open file would be stale."""
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


def _cut_incomplete_line(path: Path) -> None:
    if not path.exists():
        return
    with path.open("r+b") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)
