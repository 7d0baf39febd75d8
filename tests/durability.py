"""Check while files are written that a power cut could not leave partial files: content is synced before its rename to the final name,
and the folder is synced after the rename.

Model of the disk: a file has the content of its last os.fsync, and a folder has the names of its own last os.fsync. No data are really
lost here: the recorder compares what was synced with what exists. Names that begin with a dot are temporary: their content may be lost.
It covers all threads of one process. Syncs by other processes are not seen.
"""

import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Inode = tuple[int, int]
"""Device and number."""
State = str | dict[str, Inode]
"""A file's hash, or a folder's names."""


class NotDurable(AssertionError):
    """A power cut could leave a partial result. The message has the path and what was not synced, or synced too late."""


@dataclass(frozen=True)
class _Move:
    """A rename. It is durable when both folders were synced after it."""

    inode: Inode
    source: Path
    target: Path


class Recorder:
    """Records what was synced and renamed below a folder since the block began. Earlier content counts as durable."""

    def __init__(self, root: Path) -> None:
        self.moves: list[str] = []
        """Final names relative to the root, in the order of the renames."""
        self._root = root.absolute()
        self._lock = threading.RLock()
        self._durable: dict[Inode, State] = {}
        self._held: list[int] = []  # kept open, so that no new file gets the inode number of a removed file
        self._waiting: list[_Move] = []
        self._given: list[Path] = []
        self._problems: list[str] = []
        for path in (self._root, *self._root.rglob("*")):
            if path.is_dir() or path.is_file():
                self._hold(os.open(path, os.O_RDONLY))

    def fsynced(self, descriptor: int) -> None:
        """Record the current content of the descriptor's file or folder as durable."""
        with self._lock:
            self._hold(os.dup(descriptor))

    def moving(self, source: Path, target: Path) -> None:
        """Call before a rename. A file that gets a final name must be durable, and so must earlier renames in the same folder."""
        with self._lock:
            if not self._is_below(target) or not _is_seen(source, target):
                return
            for move in self._not_durable():
                if {move.source.parent, move.target.parent} & {source.parent, target.parent}:
                    self._complain(target, f"is renamed before the name of {self._show(move.target)} was synced")
            if not target.name.startswith("."):
                self._check_content(source, f"renamed to {self._show(target)}")

    def moved(self, source: Path, target: Path) -> None:
        """Call after a rename."""
        with self._lock:
            if not self._is_below(target) or not _is_seen(source, target):
                return
            self._waiting.append(_Move(_inode(target), source, target))
            if not target.name.startswith("."):
                self.moves.append(self._show(target))
                self._given.append(target)

    def removing(self, path: Path) -> None:
        """Call before a file or folder is removed. If it, or a folder above it, was renamed, the loss of the old name must be durable."""
        with self._lock:
            for move in self._not_durable():
                if path.is_relative_to(move.target):
                    self._complain(path, f"is removed before the loss of the name {self._show(move.source)} was synced")

    def finish(self) -> None:
        """Call after the block. Raises: NotDurable."""
        for move in self._not_durable():
            self._complain(move.target, f"was renamed, and {self._show(move.target.parent)} not synced afterwards")
        for path in filter(Path.exists, self._given):
            self._check_content(path, "at the end")
            for folder in (folder for folder in path.parents if self._is_below(folder)):
                if self._names(folder.parent).get(folder.name) != _inode(folder):
                    self._complain(folder, f"is new, and {self._show(folder.parent)} was not synced since")
        if self._problems:
            raise NotDurable("\n".join(dict.fromkeys(self._problems)))

    def close(self) -> None:
        """Close the files."""
        for descriptor in self._held:
            os.close(descriptor)

    def _hold(self, descriptor: int) -> None:
        self._held.append(descriptor)
        status = os.fstat(descriptor)
        self._durable[status.st_dev, status.st_ino] = _state(Path(f"/proc/self/fd/{descriptor}"))

    def _not_durable(self) -> list[_Move]:
        """Return the renames that a power cut could undo."""
        self._waiting = [move for move in self._waiting if not self._is_durable(move)]
        return self._waiting

    def _is_durable(self, move: _Move) -> bool:
        has_come = move.target.name.startswith(".") or self._names(move.target.parent).get(move.target.name) == move.inode
        return has_come and self._names(move.source.parent).get(move.source.name) != move.inode

    def _names(self, folder: Path) -> dict[str, Inode]:
        names = self._durable.get(_inode(folder), {})
        assert isinstance(names, dict)
        return names

    def _check_content(self, top: Path, when: str) -> None:
        for path in (top, *top.rglob("*")):
            was, now = self._durable.get(_inode(path)), _state(path)
            if was is None:
                self._complain(path, f"was never synced ({when})")
            elif was != now:
                self._complain(path, f"was synced before its last change ({when})")

    def _is_below(self, path: Path) -> bool:
        return self._root in path.parents

    def _show(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix() if path.is_relative_to(self._root) else str(path)

    def _complain(self, path: Path, fact: str) -> None:
        self._problems.append(f"{self._show(path)} {fact}")


def _is_seen(source: Path, target: Path) -> bool:
    """True if the rename adds or removes a final name."""
    return not (source.name.startswith(".") and target.name.startswith("."))


def _inode(path: Path) -> Inode:
    status = path.lstat()
    return status.st_dev, status.st_ino


def _state(path: Path) -> State:
    if stat.S_ISDIR(path.stat().st_mode):
        return {name: _inode(path / name) for name in os.listdir(path)}
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def durable_moves(root: Path) -> Iterator[Recorder]:
    """Check in this block that every rename below `root` is atomic under a power cut at any moment. Content and names must be synced
    before the rename to a final name, and the folder after it. Each rename must be synced before the next one in its folder, and before
    the old content is removed. At the end the final names, and new folders above them, must be synced.

    Raises: NotDurable after the block, with a line for each omission. An error of the block itself has priority.
    """
    recorder = Recorder(root)
    kept = {name: getattr(os, name) for name in ("fsync", "rename", "replace", "unlink", "remove", "rmdir")}

    def fsync(file: Any) -> None:
        kept["fsync"](file)
        recorder.fsynced(file if isinstance(file, int) else file.fileno())

    def renaming(name: str) -> Callable[..., None]:
        def rename(source: Any, target: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None) -> None:
            ends = _absolute(source, src_dir_fd), _absolute(target, dst_dir_fd)
            recorder.moving(*ends)
            kept[name](source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
            recorder.moved(*ends)

        return rename

    def removing(name: str) -> Callable[..., None]:
        def remove(path: Any, *, dir_fd: int | None = None) -> None:
            recorder.removing(_absolute(path, dir_fd))
            kept[name](path, dir_fd=dir_fd)

        return remove

    os.fsync = fsync
    os.rename, os.replace = renaming("rename"), renaming("replace")
    os.unlink, os.remove, os.rmdir = removing("unlink"), removing("remove"), removing("rmdir")
    try:
        yield recorder
        recorder.finish()
    finally:
        for name, function in kept.items():
            setattr(os, name, function)
        recorder.close()


def _absolute(path: Any, folder: int | None) -> Path:
    base = os.readlink(f"/proc/self/fd/{folder}") if folder is not None else os.getcwd()
    return Path(os.path.join(base, os.fspath(path)))
