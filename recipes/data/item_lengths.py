"""Finds the length of each item of opened media with one or more processes. Unlike scanning.py it needs no prepared folder: labelled data
stay where they are. Writes nothing.

Shapes: N items.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from recipes.data.media import BadItem, Files, Media, UndecodableError, bad_item
from recipes.data.scanning import ITEMS_PER_PROCESS, ITEMS_PER_TASK
from recipes.system.processes import run_in_order

Scan = Callable[..., int]
"""(file, segment=...) -> length of an item, from its header; raises UndecodableError. It is sent to other processes."""


@dataclass(frozen=True)
class _Part:
    """At most ITEMS_PER_TASK consecutive items: those of `media` from number `start` on. Picklable."""

    media: Media
    start: int
    count: int


def scan_lengths(media: Media, scan: Scan, num_processes: int) -> tuple[np.ndarray, list[BadItem]]:
    """Return the length of each item, 0 for one that cannot be read, and the items that cannot be read. `num_processes` is a maximum. The
    result does not depend on it.

    Shapes: int64 (N,).
    Raises: ConfigError if a process is killed.
    """
    num_processes = min(num_processes, 1 + len(media) // ITEMS_PER_PROCESS)
    parts = (_part(media, start) for start in range(0, len(media), ITEMS_PER_TASK))
    lengths, bad = list[np.ndarray](), list[BadItem]()
    for _, (own, own_bad) in run_in_order(partial(_scan, scan), parts, num_processes, doing="scanning"):
        lengths.append(own)
        bad += own_bad
    return np.concatenate([np.empty(0, dtype=np.int64), *lengths]), bad


def _part(media: Media, start: int) -> _Part:
    """Return the items from `start` on. Of a list of files only their own paths are kept, since a part is pickled."""
    count = min(ITEMS_PER_TASK, len(media) - start)
    if not isinstance(media, Files):
        return _Part(media, start, count)
    own = slice(start, start + count)
    segments = None if media.segments_N2 is None else media.segments_N2[own]
    return _Part(replace(media, paths=media.paths[own], labels=None, segments_N2=segments), 0, count)


def _scan(scan: Scan, part: _Part) -> tuple[np.ndarray, list[BadItem]]:
    lengths, bad = np.zeros(part.count, dtype=np.int64), list[BadItem]()
    for row in range(part.count):
        index = part.start + row
        segment = part.media.segment(index)
        try:
            with part.media.open(index) as file:
                lengths[row] = scan(file) if segment is None else scan(file, segment=segment)
        except (OSError, UndecodableError) as error:
            bad.append(bad_item(part.media, index, error))
    return lengths, bad
