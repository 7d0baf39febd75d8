"""The items of a data set, and the treatment of items that cannot be decoded. An item is a recording, a segment of one, or an image. Items
have a fixed order and are read as bytes. media_source.py opens them. Decodes nothing and writes nothing."""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, TypeVar

import numpy as np

from recipes.data.folder import printable
from recipes.data.labels import class_name
from recipes.data.manifest import Segment
from recipes.errors import ConfigError

T = TypeVar("T")
FEW_BAD_ITEMS = 3
"""This many bad items are allowed even if they are more than data.max_bad_fraction, but at most a quarter of the items, and none if
data.max_bad_fraction is 0."""
NAMED_BAD_ITEMS = 10
"""Number of bad items that a message names."""


class BadItem(NamedTuple):
    """An item that could not be read or decoded."""

    where: str
    """Location of the item (Media.where)."""
    reason: str
    file: str | None = None
    """The file that the item is, or is a part of. None for a row of a table."""


class UndecodableError(ValueError):
    """The content of an item cannot be decoded. The message is the reason (`not audio`), without the item's name."""


@contextmanager
def decoding() -> Iterator[None]:
    """In this block, any error of a decoding library becomes UndecodableError. Errors of the disk (OSError with errno) are not changed. All
    decoders run in such a block."""
    try:
        yield
    except (UndecodableError, ConfigError):
        raise
    except Exception as error:  # soundfile and Pillow raise nearly any type, such as MemoryError if a damaged header asks for terabytes
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UndecodableError(reason_of(error)) from error


def reason_of(error: Exception) -> str:
    """Return the reason why something cannot be decoded: the first line of the decoder's error message, without the memory address of the
    object that was read. If there is no message, the name of the error's class."""
    lines = str(getattr(error, "error_string", error)).strip().splitlines()
    return lines[0].strip().rstrip(".") if lines else type(error).__name__


@dataclass(frozen=True)
class MediaKind:
    """Describes one kind of items, audio or images, so that the same code reads both."""

    name: str
    """audio or image, for messages."""
    suffixes: tuple[str, ...]
    """Suffixes of the files that are items, in lower case: (".wav", ...)."""
    sample: Path
    """The shipped sample: a folder of such files."""
    column_option: str = "--set data.column="
    """The option that names a table's column, up to the name, for messages."""
    has_segments: bool = False
    """True if an item may be a segment of a file."""


class Locatable(Protocol):
    """Items with a location that a message can name."""

    def where(self, index: int, /) -> str:
        """Return the item's location, for messages."""


class Media(Protocol):
    """The items of an opened data set of recordings or images, in a fixed order. Items are addressed by index, from 0."""

    @property
    def name(self) -> str:
        """The data that the user named, as an absolute path or hub name."""

    @property
    def note(self) -> str:
        """Log line: what is read of the data and what is left out; "" if the user gave a list of files."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> bytes:
        """Return the bytes of the item's file or table cell. Raises: OSError if they cannot be read."""

    def open(self, index: int) -> BinaryIO:
        """Open the item's bytes as a file, so that a part of them can be read. Raises: OSError."""

    def size(self, index: int) -> int:
        """Return the size of the item's file or table cell in bytes. Raises: OSError."""

    def key(self, index: int) -> str:
        """Return the item's name within the data set: its relative path (for a segment followed by its times), or the number of its row.
        The name does not change if the data set is moved."""

    def where(self, index: int) -> str:
        """Return the item's location, for messages: `/data/a.wav`, `train.parquet row 17`."""

    @property
    def columns(self) -> Sequence[str]:
        """Columns of the table that lists the items; () for a folder of files."""

    def segment(self, index: int) -> Segment | None:
        """Return the start and length of the item in its file, or None if the item is the whole file."""

    def file(self, index: int) -> str | None:
        """Return the full path of the file that contains the item, without resolving links. Return None if the item is a row of a table."""

    def origin(self, index: int) -> str:
        """Return an id of the file that contains the item. Items of one file have the same id, also through links and other paths."""

    def label(self, index: int) -> str | None:
        """Return the class: the file's folder below the data set's folder, or the value of the label column; None if there is none."""


@dataclass(frozen=True)
class Files:
    """Items that are files, or segments of files. Implements Media."""

    name: str
    root: str
    """The folder that the paths are relative to."""
    paths: Sequence[str]
    labels: Sequence[Any] | None = None
    """Label of each item, as the list of files contains it. None: an item's label is the folder of its file."""
    segments_N2: np.ndarray | None = None
    """Start and length of each item in seconds. Start NaN: the whole file. Length NaN: up to the file's end. None: all are whole files."""
    columns: Sequence[str] = ()
    """Columns of the list of files; () if a folder was opened instead of a list."""
    segment_columns: Sequence[str] = ()
    """The columns that contain the times of the segments."""
    note: str = ""
    """Line for the log: what is read and what is left out; "" for a list of files."""

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> bytes:
        """Return the bytes of the item's file, also if the item is only a segment of it. Raises: OSError."""
        with self.open(index) as file:
            return file.read()

    def open(self, index: int) -> BinaryIO:
        """Open the item's file for reading. Raises: OSError."""
        return open(self._path(index), "rb")

    def size(self, index: int) -> int:
        """Return the size of the item's file in bytes. Raises: OSError."""
        return os.stat(self._path(index)).st_size

    def key(self, index: int) -> str:
        """Return the item's path as listed. If the item is a segment, its times follow: `a.wav 1.000 to 2.500 s`."""
        return self.paths[index] + self._segment_suffix(index)

    def where(self, index: int) -> str:
        """Return the item's full path, for messages. If the item is a segment, its times follow: `/data/a.wav 1.000 to 2.500 s`."""
        return self._path(index) + self._segment_suffix(index)

    def file(self, index: int) -> str:
        """Return the full path of the file that contains the item, without resolving links."""
        return self._path(index)

    def origin(self, index: int) -> str:
        """Return the full path of the file that contains the item, with links resolved."""
        folder, name = os.path.split(self._path(index))
        path = os.path.join(_real_folder(folder), name)
        return os.path.realpath(path) if os.path.islink(path) else path

    def segment(self, index: int) -> Segment | None:
        """Return the start and length of the item in its file, or None if the item is the whole file."""
        if self.segments_N2 is None:
            return None
        start, seconds = self.segments_N2[index].tolist()
        return None if math.isnan(start) else Segment(start, None if math.isnan(seconds) else seconds)

    def _path(self, index: int) -> str:
        return os.path.join(self.root, self.paths[index])

    def _segment_suffix(self, index: int) -> str:
        segment = self.segment(index)
        if segment is None:
            return ""
        start, seconds = segment
        return f" from {start:.3f} s" if seconds is None else f" {start:.3f} to {start + seconds:.3f} s"

    def label(self, index: int) -> str | None:
        """Return the item's class: its entry in `labels`, as a class name. If `labels` is None, return the path of the file's folder,
        relative to `root`. None if the entry or this path is empty."""
        return (os.path.dirname(self.paths[index]) or None) if self.labels is None else class_name(self.labels[index])


@cache
def _real_folder(path: str) -> str:
    """Return the folder's path with links resolved. Cached, because many files have the same folder."""
    return os.path.realpath(path)


def first_working(media: Media, indices: Iterable[int], attempt: Callable[[int], T]) -> tuple[T, int, list[BadItem]]:
    """Call attempt(i) for each i of `indices`, in order, until a call succeeds. An item whose call raises OSError or UndecodableError is
    bad. Return (value of the successful call, its i, the bad items before it).

    Raises: ConfigError if no call succeeds.
    """
    bad: list[BadItem] = []
    for index in indices:
        try:
            return attempt(index), index, bad
        except (OSError, UndecodableError) as error:
            bad.append(bad_item(media, index, error, media.file(index)))
    raise ConfigError(f"{media.name}: none of {len(bad)} items can be decoded: {format_bad_items(bad)}; check the data")


def first_good(media: Media, indices: Iterable[int], decode: Callable[[bytes], T]) -> tuple[T, int, list[BadItem]]:
    """Decode the first item of `indices` that can be decoded. Return (decoded value, its index, the bad items before it).

    Raises: ConfigError that names the first ten items if none can be decoded.
    """
    return first_working(media, indices, lambda index: decode(media.read(index)))


def bad_item(media: Locatable, index: int, error: OSError | UndecodableError, file: str | None = None) -> BadItem:
    """Return the record of an undecodable item: its location, the reason from the error, and the path of its file, if given."""
    return BadItem(printable(media.where(index)), getattr(error, "strerror", None) or str(error) or type(error).__name__, file)


def allowed_bad(num_items: int, max_fraction: float) -> int:
    """Return how many of num_items may be bad: max_fraction * num_items, rounded down. In a small data set at least three (FEW_BAD_ITEMS)
    or a quarter of the items, whichever is less, may be bad. If max_fraction is 0, no item may be bad."""
    few = min(FEW_BAD_ITEMS, num_items // 4) if max_fraction else 0
    return max(few, math.floor(max_fraction * num_items))


def format_bad_items(bad: Sequence[BadItem]) -> str:
    """Return one line for a message: the location and reason of the first ten bad items, and the number of the others."""
    named = ", ".join(f"{item.where} ({item.reason})" for item in bad[:NAMED_BAD_ITEMS])
    return named if len(bad) <= NAMED_BAD_ITEMS else f"{named} and {len(bad) - NAMED_BAD_ITEMS} more"
