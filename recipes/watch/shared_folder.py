"""RUN_DIR/watch as the watchers of all ranks use it: a folder on a disk that may be slow or dead.

Any watcher can see by the names of two files whether another rank hangs or has failed. So no watcher opens the records of other ranks,
except for the one that reports a hang, which reads a bounded number of them at a time. Standard library only.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from recipes.errors import ConfigError
from recipes.system.durable import write_text_atomically
from recipes.watch.endings import FAILURE, GOOD_CODES, REPORTER, record_file

Result = TypeVar("Result")
WRITE_SECONDS = 3.0
"""How long one piece of work in the folder may take."""


class SharedFolder:
    """A folder of small files on a disk that may be dead. Each piece of work runs in a thread, which is abandoned after a bounded time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._working: Thread | None = None

    def do(self, job: Callable[[Path], Result], seconds: float = WRITE_SECONDS) -> Result | None:
        """Return the result of `job`; None if it raises OSError, does not end in time, or if the previous job is still running."""
        if self._working is not None and self._working.is_alive():
            return None
        results: list[Result] = []

        def work() -> None:
            with suppress(OSError):
                results.append(job(self.path))

        self._working = Thread(target=work, daemon=True)
        self._working.start()
        self._working.join(seconds)
        return results[0] if results else None


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write the record of a rank. If the rank has failed, also write it as FAILURE, for the watchers and ranks that only look there: the
    first failure stays, but a ConfigError replaces another one, because it explains the broken connections.

    Raises: OSError.
    """
    text = json.dumps(record) + "\n"
    write_text_atomically(record_file(folder, record["rank"]), text)
    code = record["ended"]["code"] if isinstance(record["ended"], dict) else None
    if record["ended"] == "hang" or code in GOOD_CODES:
        return
    if code == ConfigError.exit_code or not (folder / FAILURE).exists():
        write_text_atomically(folder / FAILURE, text)


def claim_hang_report(folder: Path, rank: int) -> bool:
    """Make the folder and the file REPORTER, which shows that a rank hangs. True for the one watcher that has made it first: it
    reports the hang. Raises: OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError), (folder / REPORTER).open("x") as file:
        file.write(f"{rank}\n")
        return True
    return False


def has_hang_or_failure(folder: Path) -> tuple[bool, bool]:
    """Return whether a rank hangs, and whether one has failed. No file is opened. Raises: OSError."""
    return (folder / REPORTER).exists(), (folder / FAILURE).exists()
