"""Folders that appear as a whole: a new one is complete or absent, an old one is replaced or comes back. What is in them is decided by the
callers."""

import errno
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from recipes.errors import ConfigError
from recipes.system.durable import sync
from recipes.system.liveness import is_alive

DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG}
FOREIGN_STALE_SECONDS = 24 * 3600


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a new folder beside `target`. If the block succeeds, sync it to disk and rename it to `target`. If it raises, remove it.

    Raises: ConfigError with the path, the reason and the free bytes if the disk cannot be written.
    """
    target = target.absolute()
    new_parents = [parent for parent in target.parents if not parent.exists()]
    folder = target.parent / f".{target.name}.{socket.gethostname()}.{os.getpid()}.tmp"
    done = False
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(target)
        folder.mkdir()
        yield folder
        for path in (*folder.rglob("*"), folder):
            sync(path)
        folder.rename(target)
        done = True
        for name in (target, *new_parents):
            sync(name.parent)
    except OSError as error:
        if error.errno not in DISK_FULL | NOT_ALLOWED:
            raise
        raise ConfigError(_disk_complaint(target, error)) from error
    finally:
        if not done:
            shutil.rmtree(folder, ignore_errors=True)
            _remove_empty(new_parents)


def _remove_stale(target: Path) -> None:
    """Remove temporary folders of earlier attempts to make `target`. A folder of this host is removed if its process has ended or is
    this one; a folder of another host, if it was not changed for a day."""
    for folder in target.parent.glob(f".{target.name}.*.tmp"):
        host, _, pid = folder.name[len(target.name) + 2 : -len(".tmp")].rpartition(".")
        if host == socket.gethostname() and pid.isdigit():
            is_stale = int(pid) == os.getpid() or not is_alive(int(pid))
        else:
            newest = max((path.stat().st_mtime for path in (folder, *folder.glob("*"))), default=0)
            is_stale = time.time() - newest > FOREIGN_STALE_SECONDS
        if is_stale:
            shutil.rmtree(folder, ignore_errors=True)


def _remove_empty(folders: list[Path]) -> None:
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _disk_complaint(target: Path, error: OSError) -> str:
    existing = next(parent for parent in target.parents if parent.exists())
    free = shutil.disk_usage(existing).free
    remedy = "free space or raise the quota or limit" if error.errno in DISK_FULL else "fix the permissions or choose another place"
    where = f" at {error.filename}" if error.filename else ""
    return f"{target}: cannot be written ({error.strerror}{where}), {free} bytes free on that disk; {remedy}"


@contextmanager
def moved_aside(folder: Path) -> Iterator[None]:
    """Move the folder aside while the block runs. If the block raises, move it back. If it succeeds, remove it. If the process is killed,
    undo_moved_aside() moves it back."""
    aside = _aside(folder)
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def undo_moved_aside(folder: Path) -> None:
    """Clean up after a process that was killed in moved_aside(): move the old folder back, or remove it if the new one is complete."""
    aside = _aside(folder)
    if folder.exists():
        shutil.rmtree(aside, ignore_errors=True)
    elif aside.is_dir():
        aside.rename(folder)


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")
