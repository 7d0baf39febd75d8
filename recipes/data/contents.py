"""What the source files of a prepared folder held when it was made, and which of them hold something else by now. Sizes and the first and
last 64 KB are compared; times are not, since they change when data are staged. A folder made by a release that recorded nothing is not
compared.

    paths.bin, path_ends.bin    see media_items.py
    contents.bin                16 bytes per file

Shapes: N files.
"""

import hashlib
import os
import random
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from recipes.data.media_items import STRETCHES, MappedPaths, save_paths
from recipes.data.shards import map_array, read_values
from recipes.errors import ConfigError, first_line

PART_BYTES = 1 << 16
DIGEST_BYTES = 16
UNREAD = bytes(DIGEST_BYTES)
"""Stands for a file that could not be read."""
LOOKED_AT = 10_000
"""Of more files so many are drawn at random, anew at each look."""
THREADS = 16
"""Files that are read at once: the wait is for the file system, not for the processor."""

Record = dict[str, str]
"""`root`: what the paths are relative to; `sha256`: over contents.bin. In prepared.json."""


@dataclass(frozen=True)
class RunSoFar:
    """What a run that prepares its data again has to keep or to pass over."""

    kept: Path | None = None
    """A folder with the files of its first preparation that belong to it for ever, such as the tokenizer."""
    bad: Collection[str] = ()
    """Files that it could not decode, or not in part: they may have been mended or removed."""


def digest(path: str | Path) -> bytes:
    """Of the file's size, beginning and end; UNREAD where it cannot be read."""
    try:
        with open(path, "rb", buffering=0) as file:
            size = file.seek(0, 2)
            file.seek(0)
            found = hashlib.blake2b(size.to_bytes(8, "little") + file.read(PART_BYTES), digest_size=DIGEST_BYTES)
            if size > PART_BYTES:
                file.seek(max(PART_BYTES, size - PART_BYTES))
                found.update(file.read(PART_BYTES))
            return found.digest()
    except OSError:
        return UNREAD


def save_digests(folder: Path, root: str, digests: bytes) -> Record:
    """Write contents.bin beside the paths that are there already. Raises: OSError."""
    (folder / "contents.bin").write_bytes(digests)
    return {"root": root, "sha256": hashlib.sha256(digests).hexdigest()}


def record_files(folder: Path, paths: Iterable[Path]) -> Record | None:
    """Write paths and contents of these files; None where there are none, as for data from a hub. Raises: OSError."""
    names = [str(path) for path in paths]
    if not names:
        return None
    save_paths(folder, names)
    with ThreadPoolExecutor(THREADS) as pool:
        return save_digests(folder, "/", b"".join(pool.map(digest, names)))


def record_of(folder: Path, *keys: str) -> Record | None:
    """The record of a prepared folder, under the first of these keys of prepared.json: `contents` where training reads the files,
    `sources` where it does not, as that of text. None where there is none."""
    values = read_values(folder)
    return next((values[key] for key in keys if values.get(key)), None)


class Look(NamedTuple):
    """What a look at the source files of a prepared folder found; all 0 where nothing was recorded."""

    num_changed: int = 0
    num_looked: int = 0
    num_files: int = 0
    example: str = ""

    def __str__(self) -> str:
        files = f"files drawn from {self.num_files}" if self.num_looked < self.num_files else "files"
        return f"{self.num_changed} of {self.num_looked} {files} hold something else than when it was prepared, such as {self.example}"


def _read_digests(folder: Path) -> tuple[MappedPaths, np.ndarray]:
    """Return the recorded paths and their digests. Raises: ConfigError if some of them are missing."""
    try:
        paths, digests_N = MappedPaths(folder), map_array(folder / "contents.bin", np.dtype((np.void, DIGEST_BYTES)))
        is_whole = len(paths) == len(digests_N) and paths.is_whole()
    except (OSError, ValueError) as error:
        reason = first_line(error)
        raise ConfigError(
            f"{folder}: its record of the source files cannot be read ({reason}); remove the folder and prepare it again"
        ) from error
    if not is_whole:
        raise ConfigError(f"{folder}: its record of the source files is damaged; remove the folder and prepare it again")
    return paths, digests_N


def look_again(folder: Path, passed_over: Collection[str] = ()) -> Look:
    """Look at the source files of a prepared folder; those that are gone are no change, and `passed_over` are not looked at.

    Raises: ConfigError if the record of them is damaged.
    """
    record = record_of(folder, "contents", "sources")
    if record is None:
        return Look()
    paths, digests_N = _read_digests(folder)
    chosen: Sequence[int] = range(len(paths))
    if (folder / STRETCHES).exists():
        chosen = list(dict(zip(paths, chosen, strict=True)).values())  # one item of each file
    num_files = len(chosen)
    if num_files > LOOKED_AT:
        chosen = random.sample(chosen, LOOKED_AT)
    names = [os.path.join(record["root"], paths[index]) for index in chosen]
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(digest, names))
    then = [digests_N[index].tobytes() for index in chosen]
    pairs = zip(names, then, found, strict=True)
    changed = [name for name, before, now in pairs if UNREAD not in (before, now) and before != now and name not in passed_over]
    return Look(len(changed), len(names), num_files, min(changed, default=""))
