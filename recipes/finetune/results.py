"""results.json: the list of a run's results, of probes and of fine-tuning. Does not import torch. Works with the results of any task.

Each combination of KEY_FIELDS has one entry. A new result replaces the entry with the same key and keeps all others, also those of
commands that run at the same time.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from recipes.errors import ConfigError
from recipes.system.durable import write_text_atomically

NAME = "results.json"
KEY_FIELDS = ("run", "task", "data", "label_column", "split", "weights")
"""The fields that identify an entry. A field that does not apply is None (`run`: in the run's own file)."""
Entry = dict[str, Any]
ELSEWHERE = "--out DIR to write it elsewhere"
"""Remedy of a probe whose result cannot be written."""


def canonical_name(data: str | None) -> str:
    """Return the name of the data set for results.json: the absolute path of a file or folder, the unchanged name of a hub data set, or
    `sample` for None, the shipped sample."""
    if data is None:
        return "sample"
    path = Path(data).expanduser()
    return str(path.resolve()) if path.exists() else data


def check_writable(folder: Path, remedy: str = ELSEWHERE) -> None:
    """Check, before the work begins, that its result can be stored in this folder. `remedy`: for the message. Raises: ConfigError if
    not."""
    with _os_errors_as_config_errors(folder, remedy):
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(f"{folder} may not be written")
        read_results(folder)


def read_results(folder: Path) -> list[Entry]:
    """Return the entries of the folder's results.json, [] if there is no such file. A file of an older release is converted. Raises:
    ConfigError if the file cannot be read or is not a list of entries."""
    path = folder / NAME
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); move it away, or --out DIR for the new result") from None
    entries = content if isinstance(content, list) else [content]
    if not all(isinstance(entry, dict) and "task" in entry for entry in entries):
        raise ConfigError(f"{path}: no list of results; move it away, or --out DIR for the new result")
    return entries if isinstance(content, list) else [convert(content)]


def convert(old: Entry) -> Entry:
    """Return an entry made from `old`, the content of a results.json of release 0.4.0 or older. Such a file has one result, that of the
    student, and counts layers from 0. An entry counts layers from 1."""
    new = {"task": old["task"], "data": None, "split": old.get("split"), "weights": "student"} | old
    if "layer" in old:
        new["layer"] = old["layer"] + 1
    if "probes" in old:
        new["probes"] = {name: probe | {"layer": probe["layer"] + 1} for name, probe in old["probes"].items()}
    return new


def add_result(folder: Path, entry: Entry) -> Path:
    """Store an entry in the folder's results.json, and return the path of this file. See add_results."""
    return add_results(folder, [entry])


def add_results(folder: Path, entries: Sequence[Entry], remedy: str = ELSEWHERE) -> Path:
    """Store entries, all or none, in the folder's results.json, and return the path of this file. Earlier entries with the same run, task,
    data, label_column, split and weights are replaced. `remedy`: for the message. Raises: ConfigError if the file cannot be read or
    written."""
    with _os_errors_as_config_errors(folder, remedy), _locked(folder):
        replaced = [_key(entry) for entry in entries]
        others = [other for other in read_results(folder) if _key(other) not in replaced]
        write_text_atomically(folder / NAME, json.dumps([*others, *entries], indent=2) + "\n")
    return folder / NAME


def _key(entry: Entry) -> list[Any]:
    return [entry.get(key) for key in KEY_FIELDS]


@contextmanager
def _os_errors_as_config_errors(folder: Path, remedy: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{folder / NAME}: cannot be written ({error.strerror or error}); {remedy}") from None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let only one process at a time run the block, by a lock file in the folder. The kernel releases the lock if the process dies. Each
    process removes the lock file at the end. On a file system without locks, nothing is locked."""
    path = folder / f".{NAME}.lock"
    while True:
        with path.open("w") as file:
            with suppress(OSError):  # the file system has no locks
                fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_same(path, file.fileno()):
                continue  # the previous holder has removed this file
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _is_same(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
