"""Records the contents of the source files from which a prepared folder is made, and finds the files that have changed since then. Compared
are the size and the first and last 64 KB of each file. Times are not compared, because they change when data are copied to a node (staged).
A folder that an older release made has no record and is not compared.

    paths.bin, path_ends.bin    see media_items.py
    contents.bin                16 bytes per file

Shapes: N files.
"""

import hashlib
import os
import random
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from recipes.data.folder import format_names
from recipes.data.media_items import SEGMENTS_FILE, MappedPaths, save_paths
from recipes.data.shards import map_array, read_values
from recipes.errors import ConfigError, first_line

PART_BYTES = 1 << 16
DIGEST_BYTES = 16
UNREAD = bytes(DIGEST_BYTES)
"""The digest of a file that could not be read."""
MAX_COMPARED = 10_000
"""Maximum number of files in a comparison. If there are more, this many are drawn at random, other ones in each comparison."""
THREADS = 16
"""Number of files that are read at the same time. Most of the time is spent waiting for the file system, not computing."""

Record = dict[str, str]
"""The part of prepared.json about contents: `root` is the folder that the paths are relative to, `sha256` the hash of contents.bin."""


@dataclass(frozen=True)
class ResumedRun:
    """What a continued run has from its earlier starts, for preparing its data again: a folder of kept files and a list of undecodable
    files. `report` gets the source files that have changed."""

    kept: Path | None = None
    """Folder with those files of the first preparation that the run needs until its end, such as the tokenizer."""
    bad: Collection[str] = ()
    """Files that could not be decoded, as a whole or in part. The user may have fixed or removed them since then."""
    report: Callable[["ContentChanges"], Any] = lambda changes: None
    """Is called with the changes of source files, if the run continues in spite of them."""
    encoding: int | None = None
    """Version of the rules by which the run's text became tokens (tokenizer.ENCODING). None: the newest, as for a new run."""


def digest(path: str | Path) -> bytes:
    """Return a 16-byte hash of the file's size and its first and last 64 KB, or UNREAD (zero bytes) if the file cannot be read."""
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
    """Write `digests`, 16 bytes for each stored path, to contents.bin of a prepared folder. The paths, relative to the folder `root`, must
    already be stored there. Return `root` and the hash of contents.bin, to be put into prepared.json. Raises: OSError if the disk cannot be
    written."""
    (folder / "contents.bin").write_bytes(digests)
    return {"root": root, "sha256": hashlib.sha256(digests).hexdigest()}


def record_files(folder: Path, paths: Iterable[Path]) -> Record | None:
    """Write the full paths of these source files and a digest of each into a prepared folder. Return the root folder and the hash of the
    digests, to be put into prepared.json, or None if `paths` is empty, as for data from a hub.

    Raises: OSError if the disk cannot be written.
    """
    names = [str(path) for path in paths]
    if not names:
        return None
    save_paths(folder, names)
    with ThreadPoolExecutor(THREADS) as pool:
        return save_digests(folder, "/", b"".join(pool.map(digest, names)))


def record_of(folder: Path, *keys: str) -> Record | None:
    """Return the record of the source files that the folder's prepared.json has under one of `keys`: their root folder and the hash of
    contents.bin. If several keys have a record, the first key is used. If no key has one, return None.

    The key is `contents` if training reads the source files, and `sources` if it does not (text).
    """
    values = read_values(folder)
    return next((values[key] for key in keys if values.get(key)), None)


class ContentChanges(NamedTuple):
    """The source files of a prepared folder that have changed since it was prepared, by their full paths. All lists are empty if the folder
    has no record."""

    changed: tuple[str, ...] = ()
    num_compared: int = 0
    num_files: int = 0
    fixed: tuple[str, ...] = ()
    """Ignored files that have changed."""
    missing: tuple[str, ...] = ()
    """Files that are gone, or cannot be read any more."""

    def __str__(self) -> str:
        return self._describe(self.changed)

    def notes(self) -> Iterator[str]:
        """Yield up to two lines for the log: one about changed files, which are read as they are now, and one about files that are gone or
        cannot be read."""
        if changed := sorted((*self.changed, *self.fixed)):
            yield f"{self._describe(changed)}; they are read as they are now"
        if self.missing:
            yield f"{self._count(self.missing)} are gone or cannot be read, such as {format_names([*self.missing])}; others replace them"

    def _describe(self, changed: Sequence[str]) -> str:
        return f"{self._count(changed)} hold something else than when it was prepared, such as {format_names([*changed])}"

    def _count(self, paths: Sequence[str]) -> str:
        files = f"files drawn from {self.num_files}" if self.num_compared < self.num_files else "files"
        return f"{len(paths)} of {self.num_compared} {files}"


def _read_digests(folder: Path) -> tuple[MappedPaths, np.ndarray]:
    """Return the paths that a prepared folder has recorded, and the digest of each. Raises: ConfigError if the record is damaged or cannot
    be read."""
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


def compare_contents(folder: Path, ignored: Collection[str] = ()) -> ContentChanges:
    """Compare the source files of a prepared folder with its record, and return those that have changed. If there are more than 10,000
    files, 10,000 drawn at random are compared. Changed files that are in `ignored` (full paths) and files that are missing are listed
    separately.

    Raises: ConfigError if the record is damaged.
    """
    record = record_of(folder, "contents", "sources")
    if record is None:
        return ContentChanges()
    paths, digests_N = _read_digests(folder)
    chosen: Sequence[int] = range(len(paths))
    if (folder / SEGMENTS_FILE).exists():
        chosen = list(dict(zip(paths, chosen, strict=True)).values())  # one item of each file
    num_files = len(chosen)
    if num_files > MAX_COMPARED:
        chosen = random.sample(chosen, MAX_COMPARED)
    names = [os.path.join(record["root"], paths[index]) for index in chosen]
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(digest, names))
    recorded = [digests_N[index].tobytes() for index in chosen]
    pairs = list(zip(names, recorded, found, strict=True))
    changed = sorted(name for name, before, now in pairs if UNREAD not in (before, now) and before != now)
    missing = sorted(name for name, before, now in pairs if before != now == UNREAD)
    return ContentChanges(
        tuple(name for name in changed if name not in ignored),
        len(names),
        num_files,
        fixed=tuple(name for name in changed if name in ignored),
        missing=tuple(missing),
    )
