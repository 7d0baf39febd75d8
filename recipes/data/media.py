"""Recordings and images as items in a fixed order that are read as bytes, and what to do about an item that cannot be decoded. Where they
come from: media_source.py. Decodes nothing and writes nothing."""

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
from recipes.data.manifest import Stretch
from recipes.errors import ConfigError

T = TypeVar("T")
FEW_BAD_ITEMS = 3
"""So many are allowed whatever their share, if they are not more than a quarter."""
NAMED_BAD_ITEMS = 10
"""As many of a list of bad items are named in one line."""


class BadItem(NamedTuple):
    """An item that could not be read or decoded."""

    where: str
    reason: str
    file: str | None = None
    """The file that the item is, or is a part of. None for a row of a table."""


class UndecodableError(ValueError):
    """Raised by decoders; the message is the reason (`not audio`), without the item's name."""


@contextmanager
def decoding() -> Iterator[None]:
    """The one place through which decoders run: what a library raises at foreign bytes becomes UndecodableError, and a disk's errors
    stay what they are."""
    try:
        yield
    except (UndecodableError, ConfigError):
        raise
    except Exception as error:  # soundfile and Pillow raise nearly anything, MemoryError too where a damaged header asks for terabytes
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UndecodableError(reason_of(error)) from error


def reason_of(error: Exception) -> str:
    """A decoder's message as far as it fits into one line, without the address of the object that it read."""
    lines = str(getattr(error, "error_string", error)).strip().splitlines()
    return lines[0].strip().rstrip(".") if lines else type(error).__name__


@dataclass(frozen=True)
class MediaKind:
    """What the two modalities of this kind of data do not share."""

    name: str
    """audio or image, for messages."""
    suffixes: tuple[str, ...]
    """Of the files that are items, lower case: (".wav", ...)."""
    sample: Path
    """The shipped sample: a folder of such files."""
    column_option: str = "data.column"
    """The setting that names a table's column, for messages."""
    has_stretches: bool = False
    """Whether an item may be a part of a file, from one second to another."""


class Places(Protocol):
    """Items that the user can find."""

    def where(self, index: int, /) -> str:
        """What the user finds the item by."""


class Media(Protocol):
    """Items in a fixed order."""

    @property
    def name(self) -> str:
        """What the user asked for, as an absolute path or hub name."""

    @property
    def note(self) -> str:
        """What of it is read and what is left out, as a line; "" where that is the user's own list."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> bytes:
        """The item's bytes. Raises: OSError."""

    def open(self, index: int) -> BinaryIO:
        """The same as a file, for those who need a part of it. Raises: OSError."""

    def size(self, index: int) -> int:
        """Number of bytes, found without reading them. Raises: OSError."""

    def key(self, index: int) -> str:
        """The item's name within the data set, wherever the data set lies."""

    def where(self, index: int) -> str:
        """What the user finds the item by: `/data/a.wav`, `train.parquet row 17`."""

    @property
    def columns(self) -> Sequence[str]:
        """Of the table that lists them; none for a folder of files."""

    def stretch(self, index: int) -> Stretch | None:
        """The part of the file that is the item; None is all of it."""

    def file(self, index: int) -> str | None:
        """The full path of the file that the item is, or is a part of, with links as listed. None for a row of a table."""

    def origin(self, index: int) -> str:
        """Equal for items that are of one file, whatever the names that lead to it."""

    def label(self, index: int) -> str | None:
        """Class: the file's folder below the data set's, or the table's label column; None if there is none."""


@dataclass(frozen=True)
class Files:
    """One file is one item (see Media)."""

    name: str
    root: str
    """What the paths are relative to."""
    paths: Sequence[str]
    labels: Sequence[Any] | None = None
    """As a list of files holds them. None: a file's label is its folder."""
    stretches_N2: np.ndarray | None = None
    """Start and length of each item in seconds, NaN for a whole file and for the rest of one; None: every item is a whole file."""
    columns: Sequence[str] = ()
    """Of the list that names the files."""
    stretch_columns: Sequence[str] = ()
    """Those of them that say where the stretches are."""
    note: str = ""
    """See Media."""

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> bytes:
        """Raises: OSError."""
        with self.open(index) as file:
            return file.read()

    def open(self, index: int) -> BinaryIO:
        """Raises: OSError."""
        return open(self._path(index), "rb")

    def size(self, index: int) -> int:
        """Raises: OSError."""
        return os.stat(self._path(index)).st_size

    def key(self, index: int) -> str:
        """Its path as listed, and its stretch."""
        return self.paths[index] + self._named_stretch(index)

    def where(self, index: int) -> str:
        """Its full path, and its stretch."""
        return self._path(index) + self._named_stretch(index)

    def file(self, index: int) -> str:
        """See Media."""
        return self._path(index)

    def origin(self, index: int) -> str:
        """The file that the item is or is a part of, by its full path without links."""
        folder, name = os.path.split(self._path(index))
        path = os.path.join(_real_folder(folder), name)
        return os.path.realpath(path) if os.path.islink(path) else path

    def stretch(self, index: int) -> Stretch | None:
        """See Media."""
        if self.stretches_N2 is None:
            return None
        start, seconds = self.stretches_N2[index].tolist()
        return None if math.isnan(start) else Stretch(start, None if math.isnan(seconds) else seconds)

    def _path(self, index: int) -> str:
        return os.path.join(self.root, self.paths[index])

    def _named_stretch(self, index: int) -> str:
        stretch = self.stretch(index)
        if stretch is None:
            return ""
        start, seconds = stretch
        return f" from {start:.3f} s" if seconds is None else f" {start:.3f} to {start + seconds:.3f} s"

    def label(self, index: int) -> str | None:
        """See Media."""
        return (os.path.dirname(self.paths[index]) or None) if self.labels is None else class_name(self.labels[index])


@cache
def _real_folder(path: str) -> str:
    """Looked up once for all the files in it."""
    return os.path.realpath(path)


def first_working(media: Media, indices: Iterable[int], attempt: Callable[[int], T]) -> tuple[T, int, list[BadItem]]:
    """attempt(i) for the first i of `indices` that neither raises OSError nor UndecodableError; (value, i, the bad ones passed over).

    Raises: ConfigError if none works.
    """
    bad: list[BadItem] = []
    for index in indices:
        try:
            return attempt(index), index, bad
        except (OSError, UndecodableError) as error:
            bad.append(bad_item(media, index, error)._replace(file=media.file(index)))
    raise ConfigError(f"{media.name}: none of {len(bad)} items can be decoded: {name_bad(bad)}; check the data")


def first_good(media: Media, indices: Iterable[int], decode: Callable[[bytes], T]) -> tuple[T, int, list[BadItem]]:
    """decode(media.read(i)) for the first i of `indices` that works; (value, that index, the bad ones passed over).

    Raises: ConfigError if none works, naming the first ten.
    """
    return first_working(media, indices, lambda index: decode(media.read(index)))


def bad_item(media: Places, index: int, error: OSError | UndecodableError) -> BadItem:
    """The item with the reason that the error gives."""
    return BadItem(printable(media.where(index)), getattr(error, "strerror", None) or str(error) or type(error).__name__)


def allowed_bad(num_items: int, max_fraction: float) -> int:
    """How many items of a data set may be bad. One or a few do not end a run on a small set, unless it allows none."""
    few = min(FEW_BAD_ITEMS, num_items // 4) if max_fraction else 0
    return max(few, math.floor(max_fraction * num_items))


def name_bad(bad: Sequence[BadItem]) -> str:
    """The first ten with their reasons, for one line."""
    named = ", ".join(f"{item.where} ({item.reason})" for item in bad[:NAMED_BAD_ITEMS])
    return named if len(bad) <= NAMED_BAD_ITEMS else f"{named} and {len(bad) - NAMED_BAD_ITEMS} more"
