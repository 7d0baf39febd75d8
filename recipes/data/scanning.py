"""Finds the length and the size of each item (recording, segment or image) of a prepared folder with one or more processes. The result is
in the order of the items and does not depend on the number of processes. Also chooses which items are held out. Writes nothing.

Shapes: N items, K items of a split.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from recipes.data.contents import UNREAD, digest
from recipes.data.media import BadItem, Media, UndecodableError, bad_item
from recipes.data.media_items import ItemsLocation, open_items
from recipes.data.packing import HELDOUT_SEED
from recipes.data.progress import ByteProgress
from recipes.system.processes import run_in_order

ITEMS_PER_TASK = 512
ITEMS_PER_PROCESS = 4096
"""Items per process. With fewer items, one more process costs more than it saves."""
Scan = Callable[..., int]
"""(file, segment=...) -> length of an item, from its header; raises UndecodableError. It is sent to other processes, so it must be a
module-level function or a partial of one."""


@dataclass(frozen=True)
class Scanned:
    """What scan_items has found out about the items of a folder, without decoding them."""

    lengths_N: np.ndarray
    """int64 length of each item. 0 for an item that cannot be read; 1 for any other item if `scan` was None."""
    bad: list[BadItem]
    fingerprint: str
    """SHA-256 over the names (Media.key), lengths and sizes of all items."""
    first_N: np.ndarray
    """int64: for each item, the number of the first item from the same file (Media.origin)."""
    digests: bytes
    """The 16-byte digest of each item's file (contents.digest), joined. Empty if the items are not files."""


class _Part(NamedTuple):
    start: int
    lengths: np.ndarray
    sizes: np.ndarray
    keys: list[str]
    origins: np.ndarray
    digests: bytes
    bad: list[BadItem]


@dataclass(frozen=True)
class _Task:
    """A scan of at most 512 (ITEMS_PER_TASK) consecutive items of a folder, in one process. `start` is the number of the first item.
    Picklable."""

    folder: Path
    name: str
    place: ItemsLocation
    scan: Scan | None
    start: int = 0

    def run(self) -> _Part:
        media = open_items(self.folder, self.name, self.place)
        numbers = range(self.start, min(self.start + ITEMS_PER_TASK, len(media)))
        lengths, sizes = np.zeros((2, len(numbers)), dtype=np.int64)
        bad = []
        for row, index in enumerate(numbers):
            try:
                sizes[row] = media.size(index)
                lengths[row] = _length(media, index, self.scan)
            except (OSError, UndecodableError) as error:
                bad.append(bad_item(media, index, error))
        names = [media.origin(index) for index in numbers]
        origins = np.array([_hash(name) for name in names], dtype=np.int64)
        are_files = "root" in self.place
        digests = b"".join(digest(name) if sizes[row] else UNREAD for row, name in enumerate(names) if are_files)
        return _Part(self.start, lengths, sizes, [media.key(index) for index in numbers], origins, digests, bad)


def _hash(name: str) -> int:
    """Return a 64-bit hash of the name. A million hashes take only eight megabytes."""
    return int.from_bytes(hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=8).digest(), "little", signed=True)


def _length(media: Media, index: int, scan: Scan | None) -> int:
    if scan is None:
        return 1
    segment = media.segment(index)
    with media.open(index) as file:
        return scan(file) if segment is None else scan(file, segment=segment)


def scan_items(
    folder: Path, name: str, place: ItemsLocation, *, scan: Scan | None, num_items: int, num_processes: int, progress: ByteProgress
) -> Scanned:
    """Find the length and the size of every item that save_items recorded in `folder`, and which items cannot be read. `scan` gives the
    length; if it is None, each length is 1. `num_processes` is a maximum.

    Raises: ConfigError if a process is killed.
    """
    num_processes = min(num_processes, 1 + num_items // ITEMS_PER_PROCESS)
    tasks = [_Task(folder, name, place, scan, start) for start in range(0, num_items, ITEMS_PER_TASK)]
    lengths_N, origins_N = np.zeros((2, num_items), dtype=np.int64)
    bad: list[BadItem] = []
    fingerprint, digests = hashlib.sha256(), bytearray()
    for _, part in run_in_order(_Task.run, tasks, num_processes, doing="scanning"):
        lengths_N[part.start : part.start + len(part.lengths)] = part.lengths
        origins_N[part.start : part.start + len(part.origins)] = part.origins
        bad += part.bad
        digests += part.digests
        fingerprint.update("\0".join(part.keys).encode(errors="surrogateescape") + part.lengths.tobytes() + part.sizes.tobytes())
        progress.add(int(part.sizes.sum()))
    _, first, group_N = np.unique(origins_N, return_index=True, return_inverse=True)
    return Scanned(lengths_N, bad, fingerprint.hexdigest(), first[group_N], bytes(digests))


def move_large_files_last(items_K: np.ndarray, first_N: np.ndarray, limit: int) -> np.ndarray:
    """Return the same items in another order. Items of large files, those with more than `limit` of these items, are moved to the end, the
    largest file last. The others keep their order. `first_N`: for each item of the data set, the number of the first item from the same
    file.

    Shapes: K of the N items.
    """
    _, file_K, sizes = np.unique(first_N[items_K], return_inverse=True, return_counts=True)
    size_K = sizes[file_K]
    return items_K[np.argsort(np.where(size_K > limit, size_K, 0), kind="stable")]


def split_items(scanned: Scanned, usable: np.ndarray, heldout_fraction: float, has_segments: bool) -> dict[str, np.ndarray]:
    """Return split -> its item numbers. Whole files are held out, in a fixed random order, large files last, until about heldout_fraction
    of the `usable` items is. At least one item is held out and never all, but none if the fraction is 0 or all are of one file."""
    lengths_N, first_N = scanned.lengths_N, scanned.first_N
    num_heldout = max(1, round(heldout_fraction * len(usable))) if heldout_fraction else 0
    num_heldout = min(num_heldout, len(usable) - 1)
    hash_N = np.random.Generator(np.random.Philox(HELDOUT_SEED)).random(len(lengths_N))[first_N]
    by_hash = usable[np.argsort(hash_N[usable], kind="stable")]
    by_hash = move_large_files_last(by_hash, first_N, 2 * num_heldout if has_segments else len(usable))
    if num_heldout:
        cuts = 1 + np.flatnonzero(np.diff(first_N[by_hash]))
        num_heldout = int(cuts[np.abs(cuts - num_heldout).argmin()]) if len(cuts) else 0
    parts = {"train": by_hash[num_heldout:], "valid": by_hash[:num_heldout]}
    return {split: items_K[np.lexsort((items_K, lengths_N[items_K]))] for split, items_K in parts.items()}
