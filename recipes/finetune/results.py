"""results.json: a list with one entry for each question that probes have asked of a run. Torch-free; knows no probe.

Whoever has asked the same question again replaces the answer; the other entries stay, those of a probe that runs beside this one too.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from recipes.errors import ConfigError
from recipes.system.durable import write_text_atomically

NAME = "results.json"
QUESTION = ("run", "task", "data", "label_column", "split", "weights")
"""What tells an entry from the others; None where there is no such thing (`run`: in the run's own file)."""
Entry = dict[str, Any]


def check_writable(folder: Path) -> None:
    """Before the work of a probe. Raises: ConfigError where the result could not be stored in this folder."""
    with _said(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(f"{folder} may not be written")
        read_results(folder)


def read_results(folder: Path) -> list[Entry]:
    """The entries so far, [] where there are none. Raises: ConfigError where the file is no list of entries."""
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
    """An entry from the only result that release 0.4.0 and older wrote: of the student, with layers counted from 0."""
    new = {"task": old["task"], "data": None, "split": old.get("split"), "weights": "student"} | old
    if "layer" in old:
        new["layer"] = old["layer"] + 1
    if "probes" in old:
        new["probes"] = {name: probe | {"layer": probe["layer"] + 1} for name, probe in old["probes"].items()}
    return new


def add_result(folder: Path, entry: Entry) -> Path:
    """Store an entry in the folder's file, in the place of its predecessor. Returns: the file. Raises: ConfigError."""
    with _said(folder), _alone(folder):
        others = [other for other in read_results(folder) if _question(other) != _question(entry)]
        write_text_atomically(folder / NAME, json.dumps([*others, entry], indent=2) + "\n")
    return folder / NAME


def _question(entry: Entry) -> list[Any]:
    return [entry.get(key) for key in QUESTION]


@contextmanager
def _said(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{folder / NAME}: cannot be written ({error.strerror or error}); --out DIR to write it elsewhere") from None


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time. The lock goes with whoever held it, the file with the last one."""
    path = folder / f".{NAME}.lock"
    while True:
        with path.open("w") as file:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_same(path, file.fileno()):
                continue  # whoever held it has removed it
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
