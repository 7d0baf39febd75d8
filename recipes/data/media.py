"""Where recordings and images come from: `data.path` -> Media, items in a fixed order that are read as bytes; and what to do about an
item that cannot be decoded. Decodes nothing and writes nothing."""

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol, TypeVar

from recipes.data import manifest, media_table
from recipes.data.shards import is_prepared
from recipes.errors import ConfigError, MissingSplit

T = TypeVar("T")
FEW_BAD_ITEMS = 3
"""So many are allowed whatever their share, if they are not more than a quarter."""
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

    def label(self, index: int) -> str | None:
        """See Media."""
        return (os.path.dirname(self.paths[index]) or None) if self.labels is None else self.labels[index]


def open_media(path: str | None, kind: MediaKind, *, column: str, split: str = "train", label_column: str = "label") -> Media:
    """The items that `data.path` names: a folder of files, a manifest, parquet, a saved data set or a hub name; None is the sample.

    Raises: ConfigError if it is not there, holds nothing of this kind, or has no such split or column.
    """
    place = kind.sample if path is None else Path(path).expanduser()
    columns = {"column": column, "label_column": label_column, "column_option": kind.column_option}
    if place.is_dir():
        return _open_folder(place.resolve(), kind, split, columns)
    if place.is_file():
        return _open_file(place.resolve(), kind, split, columns)
    if place.suffix.lower() in (*kind.suffixes, *manifest.SUFFIXES, ".parquet"):
        raise ConfigError(f"--data {path}: no such file or folder")
    return media_table.open_hub(str(path), split=split, **columns)


def _open_folder(folder: Path, kind: MediaKind, split: str, columns: dict[str, str]) -> Media:
    if is_prepared(folder):
        raise ConfigError(f"{folder}: a prepared folder, which has no labels and no files of its own; give the data it was made from")
    if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
        return media_table.open_saved(folder, split=split, **columns)
    paths = sorted(_walk(folder))
    suffixes = Counter(os.path.splitext(path)[1].lower() for path in paths)
    num_files = sum(suffixes[suffix] for suffix in kind.suffixes)
    if num_files and suffixes[".parquet"]:
        found = f"{num_files} {kind.name} files, {suffixes['.parquet']} .parquet"
        raise ConfigError(f"{folder}: more than one kind of data ({found}); point --data at a folder with one kind")
    if suffixes[".parquet"]:
        return media_table.open_parquet(folder, split=split, **columns)
    if not num_files:
        raise ConfigError(_nothing_found(folder, kind, paths, suffixes))
    return _split_files(folder, [path for path in paths if path.lower().endswith(kind.suffixes)], kind, split)


def _open_file(path: Path, kind: MediaKind, split: str, columns: dict[str, str]) -> Media:
    suffix = path.suffix.lower()
    if suffix in kind.suffixes:
        raise ConfigError(f"{path}: one single {kind.name} file; point --data at its folder, or at a list of files")
    if suffix == ".parquet":
        return media_table.open_parquet(path, split=split, **columns)
    if suffix not in manifest.SUFFIXES:
        raise ConfigError(f"{path}: unknown kind of file {suffix or '(no suffix)'}; known are {_known(kind)}")
    if split != "train":
        raise ConfigError(f"{path}: a list of files is one split, and {split!r} was asked for; give the list of that split")
    root, paths, labels = manifest.read_manifest(path, **columns)
    return Files(str(path), root, paths, labels)


def _split_files(folder: Path, paths: list[str], kind: MediaKind, split: str) -> Files:
    """The files of the split's sub-folder where there are such, else all of them."""
    parts = {path.partition("/")[0] for path in paths if "/" in path}
    others = [name for name in ("test", *media_table.SPLIT_NAMES["valid"]) if name in parts]
    if "train" not in parts or not others:
        if split != "train":
            raise MissingSplit(
                f"{folder}: no split {split!r}, its {len(paths)} {kind.name} files are one; put them into train/ and {split}/"
            )
        return Files(str(folder), str(folder), paths)
    part = next((name for name in media_table.names_of(split) if name in parts), None)
    if part is None:
        raise MissingSplit(f"{folder}: no split {split!r}, there are train, {', '.join(others)}; point --data at data that has one")
    return Files(str(folder), str(folder / part), [path.removeprefix(f"{part}/") for path in paths if path.startswith(f"{part}/")])


def _walk(folder: Path) -> Iterator[str]:
    """Relative paths of all files but hidden ones, through links to folders too, each folder once."""
    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        prefix = "" if parent == str(folder) else f"{os.path.relpath(parent, folder)}/"
        yield from (prefix + name for name in files if real not in seen and not name.startswith("."))
        seen.add(real)


def _nothing_found(folder: Path, kind: MediaKind, paths: list[str], suffixes: Counter[str]) -> str:
    found = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in suffixes.most_common(5)) or "nothing"
    lists = [path for path in paths if path.lower().endswith(manifest.SUFFIXES)]
    hint = f"; if {lists[0]} is a list of files, point --data at it" if lists else ""
    return f"{folder}: no {kind.name} in it, found {found}; known are {_known(kind)}{hint}"


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
    where = media.where(index).encode(errors="backslashreplace").decode()  # names of files that are no UTF-8
    return BadItem(where, getattr(error, "strerror", None) or str(error) or type(error).__name__)


def allowed_bad(num_items: int, max_fraction: float) -> int:
    """How many items of a data set may be bad. One or a few do not end a run on a small set, unless it allows none."""
    few = min(FEW_BAD_ITEMS, num_items // 4) if max_fraction else 0
    return max(few, math.floor(max_fraction * num_items))


def name_bad(bad: Sequence[BadItem]) -> str:
    """The first ten with their reasons, for one line."""
    named = ", ".join(f"{item.where} ({item.reason})" for item in bad[:NAMED_BAD_ITEMS])
    return named if len(bad) <= NAMED_BAD_ITEMS else f"{named} and {len(bad) - NAMED_BAD_ITEMS} more"
