"""Where recordings and images come from: `data.path` -> Media, items in a fixed order that are read as bytes; and what to do about an
item that cannot be decoded. Decodes nothing and writes nothing."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol, TypeVar

from recipes.data import manifest, media_table
from recipes.data.folder import Listing, count_suffixes, find_place, list_folder, printable
from recipes.data.shards import is_prepared
from recipes.data.source import is_saved
from recipes.data.splits import check_file, choose_files
from recipes.errors import ConfigError

T = TypeVar("T")
NAMED_BAD_ITEMS = 10
"""As many of a list of bad items are named in one line."""


class BadItem(NamedTuple):
    """An item that could not be read or decoded."""

    where: str
    reason: str


class UndecodableError(ValueError):
    """Raised by decoders; the message is the reason (`not audio`), without the item's name."""


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
    labels: Sequence[str | None] | None = None
    """None: a file's label is its folder."""
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
        return open(self.where(index), "rb")

    def size(self, index: int) -> int:
        """Raises: OSError."""
        return os.stat(self.where(index)).st_size

    def key(self, index: int) -> str:
        """Its path as listed."""
        return self.paths[index]

    def where(self, index: int) -> str:
        """Its full path."""
        return os.path.join(self.root, self.paths[index])

    def origin(self, index: int) -> str:
        """Its full path without links."""
        folder, name = os.path.split(self.where(index))
        path = os.path.join(_real_folder(folder), name)
        return os.path.realpath(path) if os.path.islink(path) else path

    def label(self, index: int) -> str | None:
        """See Media."""
        return (os.path.dirname(self.paths[index]) or None) if self.labels is None else self.labels[index]


@cache
def _real_folder(path: str) -> str:
    """Looked up once for all the files in it."""
    return os.path.realpath(path)


def open_media(path: str | None, kind: MediaKind, *, column: str, split: str | None = None, label_column: str = "label") -> Media:
    """The items that `data.path` names: a folder of files, a manifest, parquet, a saved data set or a hub name; None is the sample.
    `split` as in splits.choose_files.

    Raises: ConfigError if it is not there, holds nothing of this kind, has no such column, or leaves open what is training data;
    MissingSplit if it has no such split.
    """
    place = find_place(kind.sample if path is None else path)
    columns = {"column": column, "label_column": label_column, "column_option": kind.column_option}
    if place is None:
        if Path(str(path)).suffix.lower() in (*kind.suffixes, *manifest.SUFFIXES, ".parquet"):
            raise ConfigError(f"--data {path}: no such file or folder")
        return media_table.open_hub(str(path), split=split, **columns)
    if place.is_dir():
        return _open_folder(place, kind, split, columns)
    return _open_file(place, kind, split, columns)


def _open_folder(folder: Path, kind: MediaKind, split: str | None, columns: dict[str, str]) -> Media:
    if is_prepared(folder):
        raise ConfigError(f"{folder}: a prepared folder, which has no labels and no files of its own; give the data it was made from")
    if is_saved(folder):
        return media_table.open_saved(folder, split=split, **columns)
    listing = list_folder(folder)
    known = [path for path in listing.files if path.lower().endswith((*kind.suffixes, ".parquet"))]
    if not known:
        raise ConfigError(_nothing_found(listing, kind))
    choice = choose_files(listing, known, split, is_item=lambda path: not _is_parquet(path))
    tables = sum(map(_is_parquet, choice.paths))
    if 0 < tables < len(choice.paths):
        found = f"{len(choice.paths) - tables} {kind.name} files, {tables} .parquet"
        raise ConfigError(f"{folder}: more than one kind of data ({found}); point --data at a folder with one kind")
    note = choice.say(sorted(set(listing.files) - set(known)))
    if tables:
        return media_table.open_parquet(folder, [folder / path for path in choice.paths], note=note, **columns)
    root = os.path.join(folder, choice.root) if choice.root else str(folder)
    paths = [path.removeprefix(f"{choice.root}/") for path in choice.paths]
    return Files(str(folder), root, paths, choice.labels, note)


def _open_file(path: Path, kind: MediaKind, split: str | None, columns: dict[str, str]) -> Media:
    suffix = path.suffix.lower()
    if suffix in kind.suffixes:
        raise ConfigError(f"{path}: one single {kind.name} file; point --data at its folder, or at a list of files")
    if suffix not in (*manifest.SUFFIXES, ".parquet"):
        raise ConfigError(f"{path}: unknown kind of file {suffix or '(no suffix)'}; known are {_known(kind)}")
    check_file(path, split)
    if suffix == ".parquet":
        return media_table.open_parquet(path, [path], **columns)
    root, paths, labels = manifest.read_manifest(path, **columns)
    return Files(str(path), root, paths, labels)


def _is_parquet(path: str) -> bool:
    return path.lower().endswith(".parquet")


def _nothing_found(listing: Listing, kind: MediaKind) -> str:
    lists = [path for path in listing.files if path.lower().endswith(manifest.SUFFIXES)]
    hint = f"; if {lists[0]} is a list of files, point --data at it" if lists else ""
    found = "; ".join([count_suffixes(listing.files), *listing.passed_over[:1]])
    return f"{listing.folder}: no {kind.name} in it, found {found}; known are {_known(kind)}{hint}"


def _known(kind: MediaKind) -> str:
    return f"folders of {', '.join(kind.suffixes)}, {', '.join(manifest.SUFFIXES)} with a column of paths, and .parquet"


def first_working(media: Media, indices: Iterable[int], attempt: Callable[[int], T]) -> tuple[T, int, list[BadItem]]:
    """attempt(i) for the first i of `indices` that neither raises OSError nor UndecodableError; (value, i, the bad ones passed over).

    Raises: ConfigError if none works.
    """
    bad: list[BadItem] = []
    for index in indices:
        try:
            return attempt(index), index, bad
        except (OSError, UndecodableError) as error:
            bad.append(bad_item(media, index, error))
    raise ConfigError(f"{media.name}: none of {len(bad)} items can be decoded: {name_bad(bad)}; check the data")


def first_good(media: Media, indices: Iterable[int], decode: Callable[[bytes], T]) -> tuple[T, int, list[BadItem]]:
    """decode(media.read(i)) for the first i of `indices` that works; (value, that index, the bad ones passed over).

    Raises: ConfigError if none works, naming the first ten.
    """
    return first_working(media, indices, lambda index: decode(media.read(index)))


def bad_item(media: Media, index: int, error: OSError | UndecodableError) -> BadItem:
    """The item with the reason that the error gives."""
    return BadItem(printable(media.where(index)), getattr(error, "strerror", None) or str(error) or type(error).__name__)


def name_bad(bad: Sequence[BadItem]) -> str:
    """The first ten with their reasons, for one line."""
    named = ", ".join(f"{item.where} ({item.reason})" for item in bad[:NAMED_BAD_ITEMS])
    return named if len(bad) <= NAMED_BAD_ITEMS else f"{named} and {len(bad) - NAMED_BAD_ITEMS} more"
