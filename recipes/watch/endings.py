"""How each rank of a launch ended: the files of RUN_DIR/watch, what they say together, and a line for people.

Standard library only, since watchers and batch scripts read and write them. Who watches: watch.py, watcher.py.
"""

import json
import re
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from recipes.errors import ConfigError
from recipes.system.durable import write_text_atomically

FOLDER, ROSTER, HANG = "watch", "ranks.json", "hang.json"
FINE = (0, 75)
"""Exit codes of a rank that has nothing to complain of: done, and stopped on request."""
BROKEN_CONNECTION = re.compile(r"(connection|peer).*clos|closed by|reset by|refused|broken pipe|nccl|gloo|dist\w*error|timed? ?out", re.I)
"""How the libraries complain where another rank is no longer there."""
AFTER_BROKEN_CONNECTION_SECONDS, AFTER_ERROR_SECONDS = 10.0, 1.0
"""A rank that is killed is noticed by the others within milliseconds, or when their library gives up waiting; by its watcher about
as soon. So a death this long after a broken connection, or after any other error, may well have been before it."""
RECORD_WAIT_SECONDS = 1.0
DESCRIPTIONS = {
    "silent": "ended without a word (killed, or crashed in native code)",
    "gone": "left no word at all: its node is gone, or all that ran there was killed at once",
}

Kind = Literal["reported", "silent", "hang", "gone"]
"""It told its exit code; it ended without; it was behind in a hang or stood in one; there is no file of it."""


@dataclass(frozen=True)
class Ending:
    """How one rank ended. `time` is in seconds since 1970; `place` the step and what it was at."""

    rank: int
    host: str
    ended: Kind
    time: float | None = None
    place: str = ""
    code: int | None = None
    message: str = ""
    """The error's, or in a hang why this rank is named."""

    @property
    def is_bad(self) -> bool:
        """Whether the rank neither came to its end nor was stopped on request."""
        return self.ended != "reported" or self.code not in FINE

    def __str__(self) -> str:
        """One line: who, where, how."""
        if self.ended == "hang":
            how = f"hung ({self.message})" if self.message else "was in a hang"
        elif self.ended == "reported":
            how = f"ended with exit code {self.code}"
        else:
            how = DESCRIPTIONS[self.ended]
        told = f": {self.message}" if self.ended == "reported" and self.message else ""
        return f"rank {self.rank} on {self.host} {how}{f' at {self.place}' if self.place else ''}{told}"


def record_file(folder: Path, rank: int) -> Path:
    """What a rank's watcher writes when that ends or hangs."""
    return folder / f"rank_{rank:05d}.json"


def stack_file(folder: Path, rank: int) -> Path:
    """Where every thread of a rank was in a hang."""
    return folder / f"rank_{rank:05d}.stack.txt"


def forget(folder: Path) -> None:
    """Remove what the launch before has left. Only who owns the run dir may."""
    shutil.rmtree(folder, ignore_errors=True)


def write_roster(folder: Path, hosts: Sequence[str]) -> None:
    """Make the folder, and say there which ranks run on which hosts. Raises: OSError."""
    folder.mkdir(exist_ok=True)
    write_text_atomically(folder / ROSTER, json.dumps(list(hosts)) + "\n")


def read_records(folder: Path) -> dict[int, dict[str, Any]]:
    """What the watchers have written so far, by rank. Raises: OSError where the folder cannot be read; {} where there is none."""
    found = {}
    for path in sorted(folder.glob("rank_*.json")):
        record = _read(path)
        if isinstance(record, dict) and {"rank", "host", "ended", "time"} <= set(record):
            found[record["rank"]] = record
    return found


def read_endings(folder: Path) -> list[Ending]:
    """How every rank ended, in the order of ranks; [] where nothing is known. To be read when none of them runs any more."""
    records, hang, hosts = read_records(folder), _read(folder / HANG), _read(folder / ROSTER)
    hosts = dict(enumerate(hosts)) if isinstance(hosts, list) else {}
    behind = {one["rank"]: one for one in hang["behind"]} if isinstance(hang, dict) else {}
    hosts |= {rank: one["host"] for rank, one in [*behind.items(), *records.items()]}
    return [_ending(rank, host, records.get(rank), behind.get(rank)) for rank, host in sorted(hosts.items())]


def told_by_another(folder: Path, rank: int, error: BaseException) -> str | None:
    """What the user can fix, in the words of the rank that ended of it, where `error` says that a connection to it broke. Waits for them a
    moment: a rank's connections close while its watcher writes."""
    deadline = time.monotonic() + RECORD_WAIT_SECONDS
    while isinstance(error, RuntimeError) and BROKEN_CONNECTION.search(str(error)):
        with suppress(OSError):
            for one in read_endings(folder):
                if one.rank != rank and one.code == ConfigError.exit_code:
                    return one.message
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return None


def first_failure(endings: Sequence[Ending]) -> Ending | None:
    """The rank from which the others' trouble came, as far as the files tell; None where all ended well or nothing is known.

    A rank that is named in a hang comes first. Else the first error or death; where that is an error, a death soon after it comes
    first (see AFTER_BROKEN_CONNECTION_SECONDS), and after a broken connection a rank of which there is no file.
    """
    named = [one for one in endings if one.ended == "hang" and one.message]
    gone = [one for one in endings if one.ended == "gone"]
    timed = sorted((one for one in endings if one.is_bad and one.time is not None), key=_time)
    if named or not timed:
        # Where some ended well, all had agreed to end: no file is then no failure, but a watcher that was killed.
        return next(iter(named), None if any(not one.is_bad for one in endings) else next(iter(gone), None))
    first = timed[0]
    if first.ended != "reported":
        return first
    is_consequence = BROKEN_CONNECTION.search(first.message) is not None
    patience = AFTER_BROKEN_CONNECTION_SECONDS if is_consequence else AFTER_ERROR_SECONDS
    deaths = [one for one in timed if one.ended == "silent" and _time(one) - _time(first) <= patience]
    return next(iter([*deaths, *(gone if is_consequence else [])]), first)


def _ending(rank: int, host: str, record: dict[str, Any] | None, behind: dict[str, Any] | None) -> Ending:
    known = record or behind or {}
    place = f"step {known['step']}, {known['phase']}" if known.get("phase") else ""
    if behind is not None and (record is None or record["ended"] == "hang"):
        return Ending(rank, host, "hang", known.get("time"), place, None, str(behind.get("why")))
    if record is None:
        return Ending(rank, host, "gone")
    ended: Any = record.get("ended")
    if isinstance(ended, dict):
        return Ending(rank, host, "reported", record.get("time"), place, ended.get("code"), str(ended.get("message") or ""))
    return Ending(rank, host, ended, record.get("time"), place)


def _time(ending: Ending) -> float:
    return ending.time or 0.0


def _read(path: Path) -> Any:
    with suppress(FileNotFoundError, ValueError):  # half a file cannot be: they are renamed into place
        return json.loads(path.read_text())
    return None
