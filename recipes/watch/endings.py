"""How each rank of a launch ended: reads the files of RUN_DIR/watch, finds the first failure, and describes it in one line.

Standard library only, because the watcher processes and the batch script use this module too. The files are written by watcher.py.
"""

import json
import re
import shutil
import time
from collections.abc import Container, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from recipes.errors import ConfigError
from recipes.system.durable import write_text_atomically

FOLDER, ROSTER, HANG = "watch", "ranks.json", "hang.json"
REPORTER, FAILURE = "hang_reporter.txt", "failure.json"
"""The rank whose watcher reports the hang, and the record of the first rank that failed."""
NUM_READERS = 16
"""Records are read by this many threads, because opening a file on a network file system may take 10 ms or more."""
GOOD_CODES = (0, 75)
"""Exit codes of a rank without an error: done, and stopped on request."""
BROKEN_CONNECTION = re.compile(r"(connection|peer).*clos|closed by|reset by|refused|broken pipe|nccl|gloo|dist\w*error|timed? ?out", re.I)
"""Matches the errors that torch, gloo and NCCL raise if another rank is no longer there."""
AFTER_BROKEN_CONNECTION_SECONDS, AFTER_ERROR_SECONDS = 10.0, 1.0
"""A rank can die before another rank reports an error, although its watcher writes its record later. The other ranks notice a killed
rank within milliseconds or after the timeout of their library; its watcher notices it about as soon. So a death that is recorded at
most this long after a broken connection, or after any other error, counts as the earlier one."""
RECORD_WAIT_SECONDS = 1.0
"""How long to wait for the record of another rank after a connection to it broke."""
DESCRIPTIONS = {
    "silent": "died without an exit code (killed, or crashed in native code)",
    "gone": "exited without a record: its node is gone, or all that ran there was killed at once",
}

Kind = Literal["reported", "silent", "hang", "gone"]
"""reported: the rank reported an exit code. silent: it died without reporting one. hang: it was in a hang, perhaps as a straggler.
gone: there is no record of it."""


@dataclass(frozen=True)
class Ending:
    """How one rank ended. `time`: seconds since 1970. `place`: the step and the phase that it was in."""

    rank: int
    host: str
    ended: Kind
    time: float | None = None
    place: str = ""
    code: int | None = None
    message: str = ""
    """The message of the error. In a hang: why this rank is a straggler, or empty."""

    @property
    def is_bad(self) -> bool:
        """True unless the rank finished or was stopped on request."""
        return self.ended != "reported" or self.code not in GOOD_CODES

    def __str__(self) -> str:
        """One line: rank and host, how the rank ended, and its step and phase."""
        if self.ended == "hang":
            how = f"hung ({self.message})" if self.message else "was in a hang"
        elif self.ended == "reported":
            how = f"ended with exit code {self.code}"
        else:
            how = DESCRIPTIONS[self.ended]
        message = f": {self.message}" if self.ended == "reported" and self.message else ""
        return f"rank {self.rank} on {self.host} {how}{f' at {self.place}' if self.place else ''}{message}"


def record_file(folder: Path, rank: int) -> Path:
    """Return the path of the file that a rank's watcher writes when the rank ends or hangs. `folder`: RUN_DIR/watch."""
    return folder / f"rank_{rank:05d}.json"


def stack_file(folder: Path, rank: int) -> Path:
    """Return the path of the file with the stack traces of all threads of a rank, dumped in a hang. `folder`: RUN_DIR/watch."""
    return folder / f"rank_{rank:05d}.stack.txt"


def remove_folder(folder: Path) -> None:
    """Remove `folder` (RUN_DIR/watch) with the files of the previous launch. Only the owner of the run dir may call this."""
    shutil.rmtree(folder, ignore_errors=True)


def write_roster(folder: Path, hosts: Sequence[str]) -> None:
    """Make `folder` (RUN_DIR/watch) and write ranks.json into it: the host of every rank. It shows later which rank has left no record.
    Raises: OSError."""
    folder.mkdir(exist_ok=True)
    write_text_atomically(folder / ROSTER, json.dumps(list(hosts)) + "\n")


def ranks_with_record(folder: Path) -> list[int]:
    """Return the ranks whose watcher has written a record, by the names of the files alone; [] if the folder does not exist.

    Raises: OSError if the folder cannot be read.
    """
    return sorted(int(path.stem.removeprefix("rank_")) for path in folder.glob("rank_*.json"))


def read_records(folder: Path, known: Container[int] = (), most: int | None = None) -> dict[int, dict[str, Any]]:
    """Return what the watchers have written so far on how their ranks ended or hung: rank -> content of its file. {} if the folder does
    not exist. Damaged files are left out.

    `known`: ranks whose records are not read. `most`: read at most so many. Raises: OSError if the folder cannot be read.
    """
    paths = [record_file(folder, rank) for rank in ranks_with_record(folder) if rank not in known][:most]
    with ThreadPoolExecutor(NUM_READERS) as readers:
        records = [record for record in readers.map(_read, paths) if isinstance(record, dict)]
    return {record["rank"]: record for record in records if {"rank", "host", "ended", "time"} <= set(record)}


def read_endings(folder: Path) -> list[Ending]:
    """Return how every rank of the last launch ended, in the order of ranks; [] if `folder` (RUN_DIR/watch) has no files. Call it when no
    rank is running any more."""
    records, hang, hosts = read_records(folder), _read(folder / HANG), _read(folder / ROSTER)
    hosts = dict(enumerate(hosts)) if isinstance(hosts, list) else {}
    behind = {row["rank"]: row for row in hang["behind"]} if isinstance(hang, dict) else {}
    hosts |= {rank: row["host"] for rank, row in [*behind.items(), *records.items()]}
    return [_ending(rank, host, records.get(rank), behind.get(rank)) for rank, host in sorted(hosts.items())]


def config_error_of_another_rank(folder: Path, rank: int, error: BaseException) -> str | None:
    """If `error` of this rank is a broken connection, find its cause: return the message of another rank that ended with ConfigError.
    None if there is no such rank, or if `error` is not a broken connection.

    `folder`: RUN_DIR/watch. `rank`: this rank. Waits up to RECORD_WAIT_SECONDS for the message, since it may still be being written.
    """
    deadline = time.monotonic() + RECORD_WAIT_SECONDS
    while isinstance(error, RuntimeError) and BROKEN_CONNECTION.search(str(error)):
        with suppress(OSError):  # one file, because all ranks look at the same time
            failure = _read(folder / FAILURE)
            ending = failure and _ending(failure["rank"], failure["host"], failure, None)
            if ending and ending.rank != rank and ending.code == ConfigError.exit_code:
                return ending.message
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return None


def first_failure(endings: Sequence[Ending]) -> Ending | None:
    """Return the ending of the rank that failed first and so caused the other failures; None if no rank failed or `endings` is empty.

    It is a straggler of a hang if there is one; else a rank that died shortly after the first error; else, if the first error is a broken
    connection, a rank without a record; else the first error or death.
    """
    stragglers = [one for one in endings if one.ended == "hang" and one.message]
    gone = [one for one in endings if one.ended == "gone"]
    timed = sorted((one for one in endings if one.is_bad and one.time is not None), key=_time)
    if stragglers or not timed:
        # If some ranks ended well, all had agreed to end. Then a missing record means a killed watcher, not a failed rank.
        return next(iter(stragglers), None if any(not one.is_bad for one in endings) else next(iter(gone), None))
    first = timed[0]
    if first.ended != "reported":
        return first
    is_consequence = BROKEN_CONNECTION.search(first.message) is not None
    max_delay = AFTER_BROKEN_CONNECTION_SECONDS if is_consequence else AFTER_ERROR_SECONDS
    deaths = [one for one in timed if one.ended == "silent" and _time(one) - _time(first) <= max_delay]
    return next(iter([*deaths, *(gone if is_consequence else [])]), first)


def _ending(rank: int, host: str, record: dict[str, Any] | None, behind: dict[str, Any] | None) -> Ending:
    facts = record or behind or {}
    place = f"step {facts['step']}, {facts['phase']}" if facts.get("phase") else ""
    if behind is not None and (record is None or record["ended"] == "hang"):
        return Ending(rank, host, "hang", facts.get("time"), place, None, str(behind.get("why")))
    if record is None:
        return Ending(rank, host, "gone")
    ended: Any = record.get("ended")
    if isinstance(ended, dict):
        return Ending(rank, host, "reported", record.get("time"), place, ended.get("code"), str(ended.get("message") or ""))
    return Ending(rank, host, ended, record.get("time"), place)


def _time(ending: Ending) -> float:
    return ending.time or 0.0


def _read(path: Path) -> Any:
    with suppress(FileNotFoundError, ValueError):  # a half-written file is impossible: the files are renamed into place
        return json.loads(path.read_text())
    return None
