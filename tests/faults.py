"""Faults for a process that writes checkpoints: it is killed, or the disk fails, at the n-th file operation below checkpoints/.

`Fault` is installed in a child before the script runs (tests/launching.py, `before`); the product has no hook for it. Python's audit
events report opens, renames and removals. Writes and fsync have no audit event, so they are wrapped. tests/disturbed.py checks what
becomes of the run.
"""

import builtins
import ctypes
import errno
import io
import itertools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FOLDER = "checkpoints"
CHANGES = {"os.mkdir": "mkdir", "os.rename": "rename", "os.remove": "remove", "os.rmdir": "rmdir"}
"""Audit events whose first argument is the path; os.replace is a rename, os.unlink a remove."""
FOLDER_FD = {"os.mkdir": 2, "os.rename": 2, "os.remove": 1, "os.rmdir": 1}
"""For each audit event, the index of the argument with the descriptor of the folder that a relative path belongs to."""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
NO_LIMIT = 1_000_000
CAPABILITY_VERSION_3 = 0x20080522
DAC_OVERRIDE, DAC_READ_SEARCH = 1, 2


@dataclass(frozen=True)
class Operation:
    """One file operation below checkpoints/. `number`: its position, counted from 1, among such operations of its process."""

    number: int
    kind: str
    """open, open for reading, write, fsync, mkdir, rename, remove or rmdir."""
    path: str
    """The path from its part `checkpoints` on."""

    @property
    def label(self) -> str:
        """Return the kind of operation and the kind of file as text, such as `fsync rank file in checkpoint folder`, without steps and
        ranks."""
        return f"{self.kind} {kind_of(self.path)}"


def kind_of(path: str) -> str:
    """Return what a path below checkpoints/ is, as text such as `rank file in unfinished folder`."""
    name, folder = Path(path).name, next((part for part in Path(path).parts if "step_" in part), "")
    where = {".tmp": "unfinished folder", ".old": "deleted folder", "": "checkpoint folder"}[Path(folder).suffix] if folder else FOLDER
    if name in (folder, FOLDER):
        return where
    return f"{'rank file' if name.startswith('rank_') else name.removeprefix('.')} in {where}"


@dataclass(frozen=True)
class Fault:
    """What goes wrong at `times` file operations below checkpoints/, from number `first` on. With `first` 0 operations are only logged.

    `action` "kill": SIGKILL just before the operation, or after the first half of a write. "error": OSError `code` instead of the
    operation, or after the first half of a write; an open for reading fails only with EIO. "slow": sleep `seconds` before the operation,
    or until the file `until` exists. `only`: a text; other operations than those with this text in "LABEL PATH" are spared. `log`: a file
    to which each operation is written when it begins, one JSON object per line.
    """

    action: str = "look"
    first: int = 0
    times: int = 1
    code: int = errno.ENOSPC
    seconds: float = 0.0
    until: Path | None = None
    only: str = ""
    log: Path | None = None

    def __call__(self) -> None:
        """Install the fault in this process. It cannot be removed."""
        _Disturber(self).install()


class _CountedFile(io.FileIO):
    """A raw file that calls `on_operation` before each write to the disk."""

    def __init__(self, path: str, mode: str, on_operation: Callable[..., Any]) -> None:
        self._on_operation = on_operation
        super().__init__(path, mode)

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._on_operation("write", str(self.name), half=lambda: super(_CountedFile, self).write(view[: len(view) // 2]))
        return super().write(view)


class _Disturber:
    """Counts the file operations of this process below checkpoints/, and applies a fault to them."""

    def __init__(self, fault: Fault) -> None:
        self._fault, self._count, self._num_applied = fault, 0, 0
        self._lock = threading.RLock()  # the main thread loads while the saving thread writes
        self._log = os.open(fault.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if fault.log else None
        self._open, self._fsync = io.open, os.fsync

    def install(self) -> None:
        """Install hooks and wrappers. Call it once per process."""
        sys.addaudithook(self._audit)
        io.open = builtins.open = self._counting_open  # pathlib uses io.open
        os.fsync = self._counting_fsync

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(args[0], str | os.PathLike):
            reads = not (args[2] or 0) & WRITING
            self._on_operation("open for reading" if reads else "open", os.fspath(args[0]))
        elif event in CHANGES:
            folder = args[FOLDER_FD[event]]
            base = os.readlink(f"/proc/self/fd/{folder}") if folder is not None and folder >= 0 else ""
            self._on_operation(CHANGES[event], os.path.join(base, os.fspath(args[0])))

    def _counting_open(self, file: Any, mode: str = "r", buffering: int = -1, *args: Any, **kwargs: Any) -> Any:
        if isinstance(file, int) or not set(mode) & set("wxa") or "+" in mode or below_checkpoints(os.fspath(file)) is None:
            return self._open(file, mode, buffering, *args, **kwargs)
        buffered = io.BufferedWriter(_CountedFile(os.fspath(file), mode.replace("t", "").replace("b", ""), self._on_operation))
        return buffered if "b" in mode else io.TextIOWrapper(buffered, *args, **kwargs)

    def _counting_fsync(self, file: Any) -> None:
        number = file if isinstance(file, int) else file.fileno()
        self._on_operation("fsync", os.readlink(f"/proc/self/fd/{number}"))
        self._fsync(file)

    def _on_operation(self, kind: str, path: str, half: Callable[[], Any] = lambda: None) -> None:
        """Count and log an operation on `path`, if that is below checkpoints/, and apply the fault if it is due. `half` does the first
        half of a write.

        Raises: OSError as the fault says.
        """
        below = below_checkpoints(path)
        if below is None:
            return
        with self._lock:
            self._count += 1
            operation = Operation(self._count, kind, below)
            if self._log is not None:
                os.write(self._log, (json.dumps(asdict(operation)) + "\n").encode())
            applies = self._applies(operation)
            self._num_applied += applies
        if applies:
            self._apply(path, half)

    def _applies(self, operation: Operation) -> bool:
        fault = self._fault
        if not fault.first or operation.number < fault.first or self._num_applied >= fault.times:
            return False
        if fault.action == "error" and operation.kind == "open for reading" and fault.code != errno.EIO:
            return False
        return fault.only in f"{operation.label} {operation.path}"

    def _apply(self, path: str, half: Callable[[], Any]) -> None:
        if self._fault.action == "slow":
            end = time.monotonic() + self._fault.seconds
            while time.monotonic() < end and not (self._fault.until and self._fault.until.exists()):
                time.sleep(0.01)
            return
        half()
        if self._fault.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(self._fault.code, os.strerror(self._fault.code), path)


@dataclass(frozen=True)
class KilledInBackward:
    """Kills the process with SIGKILL in the middle of an update: when backward begins for the n-th time (`number`)."""

    number: int

    def __call__(self) -> None:
        """Install the fault in this process. It cannot be removed."""
        import torch  # imported here, so that commands without ranks do not import it

        backward, counted = torch.autograd.backward, itertools.count(1)

        def fatal(*args: Any, **kwargs: Any) -> Any:
            if next(counted) == self.number:
                os.kill(os.getpid(), signal.SIGKILL)
            return backward(*args, **kwargs)

        torch.autograd.backward = fatal


def below_checkpoints(path: str | bytes) -> str | None:
    """Return the path from its part `checkpoints` on; None if it has no such part."""
    parts = Path(os.fsdecode(path)).parts
    return "/".join(parts[parts.index(FOLDER) :]) if FOLDER in parts else None


def read_operations(log: Path) -> list[Operation]:
    """Return the file operations that a Fault has logged in `log`; [] if there is no such file. The incomplete last line of a killed
    process is left out."""
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    return [Operation(**json.loads(line)) for line in lines if line.endswith("\n")]


def obey_permissions() -> None:
    """Drop root's right to ignore file modes, so that a read-only folder is read-only for this process even if it runs as root."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable of capabilities 0 to 31, then of the others
    if libc.capget(header, data):
        raise OSError(ctypes.get_errno(), "capget")
    data[0] &= ~(1 << DAC_OVERRIDE | 1 << DAC_READ_SEARCH)
    if libc.capset(header, data):
        raise OSError(ctypes.get_errno(), "capset")
