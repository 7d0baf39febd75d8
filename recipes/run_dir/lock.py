"""The lock of a run directory: a file that names the owner process, and a heartbeat that touches the file. Torch-free; does not depend
on the content of the directory.

A launch on the owner's machine asks the kernel whether the owner is alive. A launch on another machine checks whether the file is
still touched. It compares two modification times of the file, never one with its own clock, because clocks of two machines differ.
"""

import fcntl
import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from recipes.errors import ConfigError
from recipes.run_dir.folder import UNKNOWN, Folder
from recipes.system.liveness import is_alive, read_stat

HEARTBEAT_SECONDS = 5.0
STALE_SECONDS = 30.0
"""An owner on another machine counts as dead after this time without a heartbeat. It is six heartbeats, longer than a short failure of
a file server."""
MAX_ROUNDS = 50
"""How often acquire() tries, if several launches compete for the lock."""
RETRY_SECONDS = 0.02


@dataclass(frozen=True)
class Owner:
    """The process that a lock file names. start, boot and pid_namespace distinguish it from a later process with the same pid."""

    host: str
    pid: int
    start: str
    boot: str
    pid_namespace: str
    since: float
    """Seconds since 1970, by the owner's clock."""
    folder: Folder = UNKNOWN
    """The run directory that the process owns."""

    @staticmethod
    def this_process(folder: Folder = UNKNOWN) -> "Owner":
        """Return the calling process as the owner of the run directory `folder`."""
        pid = os.getpid()
        stat = read_stat(pid)
        return Owner(os.uname().nodename, pid, stat.start if stat else "", _boot(), _pid_namespace(), time.time(), folder)

    @staticmethod
    def of(text: str) -> "Owner | None":
        """Read the owner from the text of a lock file; None if the text does not name one."""
        try:
            content = json.loads(text)
            owner = Owner(**content | {"folder": Folder(*content.get("folder", ()))})
        except (ValueError, TypeError, AttributeError):
            return None
        return owner if isinstance(owner.pid, int) and isinstance(owner.since, float) else None

    def is_here(self) -> bool:
        """True if the kernel of this process can report on the owner: same boot and same pid namespace."""
        return bool(self.boot) and (self.boot, self.pid_namespace) == (_boot(), _pid_namespace())

    def is_running(self) -> bool:
        """True if the owner process is alive. Call it only if is_here() is true. A stopped process is alive, a zombie is not."""
        stat = read_stat(self.pid)
        if stat is not None:
            return stat.start == self.start and stat.state not in "ZX"
        return is_alive(self.pid)  # /proc may hide the processes of other users

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host} since {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(self.since))}"


class _Snapshot(NamedTuple):
    """The content and modification time of a lock file at one moment."""

    text: str
    mtime_ns: int


class RunLock:
    """The lock file at `path` in a run directory. One process at a time owns it."""

    def __init__(
        self,
        path: Path,
        *,
        say: Callable[[str], None] = print,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        stale_seconds: float = STALE_SECONDS,
    ) -> None:
        """Prepare the lock; acquire() takes it. An owner touches the file every `heartbeat_seconds`. If the owner is on another machine,
        acquire() prints a line with `say` and waits up to `stale_seconds` for such a touch. Without one it takes the lock.
        """
        self.path = path
        self._say, self._heartbeat_seconds, self._stale_seconds = say, heartbeat_seconds, stale_seconds
        self.text = ""
        """The content of the file while this launch owns it."""
        self._folder = UNKNOWN
        self._lost_reason: str | None = None
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="lock")

    @property
    def is_lost(self) -> bool:
        """True if the last heartbeat or check() found another owner, or found the directory gone."""
        return self._lost_reason is not None

    def acquire(self) -> str | None:
        """Take ownership of the lock file, and touch it regularly from now on. Returns the dead owner that it was taken from, as text;
        None if there was no lock, or only one that was copied with the run dir.

        Raises: ConfigError if another owner is alive, or if other launches were faster MAX_ROUNDS times; OSError if the file cannot be
        written.
        """
        self._prepare()
        previous = None
        for _ in range(MAX_ROUNDS):
            if self._create(self.text):
                self._remove_leftovers()
                self._thread.start()
                return previous
            seen = self._read_file()
            if seen is not None and self._is_stale(seen) and self._remove_stale(seen):
                previous = None if self._is_copied(Owner.of(seen.text)) else _owner_name(seen.text)
        raise ConfigError(f"{self._flag} is contested by several launches; start one of them again")

    def _prepare(self) -> None:
        self._folder = Folder.at(self.path.parent)
        self.text = json.dumps(asdict(Owner.this_process(self._folder))) + "\n"

    def check(self) -> None:
        """Check that this launch still owns the directory.

        Raises: ConfigError if another launch owns it, or it is gone; OSError if the file system does not answer.
        """
        if self._lost_reason is None:
            self._lost_reason = self._moved() or self._taken_over()
        if self._lost_reason is not None:
            raise ConfigError(f"{self._flag} {self._lost_reason}")

    def release(self) -> None:
        """Stop the heartbeat, and remove the lock file unless another launch owns it by now."""
        self._released.set()
        if self._thread.is_alive():
            self._thread.join(self._heartbeat_seconds)  # bounded: a dead file server must not block the exit
        with suppress(OSError):
            seen = self._read_file()
            if seen is not None and seen.text == self.text:
                self.path.unlink()

    def _moved(self) -> str | None:
        """Return an error text if the directory was moved or removed; else None. A new directory at its place counts as removed too."""
        with suppress(FileNotFoundError, NotADirectoryError):
            if self.path.parent.stat().st_ino == self._folder.inode:
                return None
        return (
            "was moved or removed while the run was going on; it ends without writing more. If it was moved, the same command with the "
            "new --run-dir continues from its last checkpoint"
        )

    def _taken_over(self) -> str | None:
        seen = self._read_file()
        if seen is None and not self._create(self.text):  # removed by hand: this launch creates it again and keeps it
            seen = self._read_file()
        if seen is None or seen.text == self.text:
            return None
        return f"was taken over by {_owner_name(seen.text)}, because this launch showed no heartbeat; it ends without writing more"

    @property
    def _flag(self) -> str:
        return f"--run-dir {self.path.parent}"

    def _beat(self) -> None:
        while not self._released.wait(self._heartbeat_seconds):
            with suppress(OSError, ConfigError):  # the next heartbeat may succeed; the loss of the lock is stored in check()
                self.check()
                os.utime(self.path)

    def _create(self, text: str) -> bool:
        try:
            descriptor = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        try:
            os.write(descriptor, text.encode())
        except OSError:
            self.path.unlink()
            raise
        finally:
            os.close(descriptor)
        return True

    def _read_file(self) -> _Snapshot | None:
        try:
            with self.path.open(errors="replace") as file:  # opened each time: only an open makes NFS ask its server
                return _Snapshot(file.read(), os.fstat(file.fileno()).st_mtime_ns)
        except FileNotFoundError:
            return None

    def _is_stale(self, seen: _Snapshot) -> bool:
        """True if the lock file, read as `seen`, may be removed: its owner is dead, or the file was copied with the run directory.

        False if the content has changed or the file is gone: then acquire() tries again. For an owner on another machine this takes up
        to `stale_seconds`.

        Raises: ConfigError if the owner is alive.
        """
        owner = Owner.of(seen.text)
        if owner is not None and owner.is_here():
            if self._is_copied(owner) or not owner.is_running():
                return True
            raise ConfigError(self._in_use(seen))
        deadline, has_reported = time.monotonic() + self._stale_seconds, False
        while time.monotonic() < deadline:
            time.sleep(min(1.0, self._stale_seconds / 20))
            now = self._read_file()
            if now is None or now.text != seen.text:
                return False
            if now.mtime_ns != seen.mtime_ns:
                raise ConfigError(self._in_use(seen))
            if not has_reported:
                self._say(
                    f"{self._flag} belongs to {_owner_name(seen.text)}; watching up to {self._stale_seconds:g} s whether that is alive"
                )
                has_reported = True
        return True

    def _is_copied(self, owner: Owner | None) -> bool:
        """True if the lock file was written for another directory and copied here with it, so that it locks nothing. False if the
        owner is on another machine: then only the heartbeat shows whether the lock is in use."""
        return owner is not None and owner.is_here() and owner.folder.is_copied_to(self._folder)

    def _in_use(self, seen: _Snapshot) -> str:
        return f"{self._flag} is in use by {_owner_name(seen.text)}; wait for it, stop it, or name another --run-dir"

    def _remove_stale(self, stale: _Snapshot) -> bool:
        """Remove the lock file and return True, if its content and time are still those of `stale`. False if another launch was faster."""
        try:
            with self.path.open("r+") as file:
                if not _is_first(file.fileno()) or self._read_file() != stale:
                    return False
                aside = self.path.with_name(f"{self.path.name}.{os.uname().nodename}.{os.getpid()}.{time.time_ns()}")
                self.path.rename(aside)
                text = aside.read_text(errors="replace")
                aside.unlink()
        except FileNotFoundError:
            return False
        if text != stale.text:  # only without a working flock: another launch had taken the file in between
            self._create(text)
            return False
        return True

    def _remove_leftovers(self) -> None:
        for leftover in self.path.parent.glob(f"{self.path.name}.*"):
            leftover.unlink(missing_ok=True)


def _is_first(descriptor: int) -> bool:
    """Take the kernel's lock (flock) on the open file `descriptor`, so that one launch at a time removes it. False if another has it.

    True also if the file system has no flock.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held until the file is closed, a moment later
    except BlockingIOError:
        time.sleep(RETRY_SECONDS)
        return False
    except OSError:
        return True
    return True


def _owner_name(text: str) -> str:
    return str(Owner.of(text) or "another process")


def _boot() -> str:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def _pid_namespace() -> str:
    with suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""
