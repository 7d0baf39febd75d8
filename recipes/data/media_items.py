"""The items of a prepared folder, kept so that they open at once in any process: paths of the files, which stay where they are, or
a table of the bytes. Scans nothing and knows no splits.

    paths.bin, path_ends.bin    the files' paths one after another, and int64 byte offsets of their ends
    stretches.bin               where rows of a list are parts of files: float64 start and length of each in seconds
    table/                      rows copied by save_to_disk, so that training needs neither cache nor network
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import overload

import numpy as np

from recipes.data import media_table
from recipes.data.media import Files, Media
from recipes.data.shards import map_array
from recipes.errors import ConfigError

STRETCHES = "stretches.bin"
Place = dict[str, str]
"""What open_items needs beside the folder; goes into prepared.json."""


class MappedPaths(Sequence[str]):
    """paths.bin, memory-mapped when first used and again after pickling."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        start = int(self._ends[index - 1]) if index else 0
        return os.fsdecode(self._text[start : int(self._ends[index])].tobytes())

    def is_whole(self) -> bool:
        """Whether paths.bin is as long as path_ends.bin says. Raises: OSError, ValueError."""
        return (self._folder / "paths.bin").stat().st_size == (int(self._ends[-1]) if len(self) else 0)

    def __reduce__(self) -> tuple[type["MappedPaths"], tuple[Path]]:
        return MappedPaths, (self._folder,)

    @cached_property
    def _ends(self) -> np.ndarray:
        return map_array(self._folder / "path_ends.bin", np.int64)

    @cached_property
    def _text(self) -> np.ndarray:
        return map_array(self._folder / "paths.bin", np.uint8)


def save_paths(folder: Path, paths: Sequence[str]) -> None:
    """Write what MappedPaths reads. Raises: OSError."""
    encoded = [os.fsencode(path) for path in paths]
    (folder / "paths.bin").write_bytes(b"".join(encoded))
    (folder / "path_ends.bin").write_bytes(np.cumsum([len(path) for path in encoded], dtype=np.int64).tobytes())


def save_items(media: Media, folder: Path) -> Place:
    """Write what open_items reads. Raises: OSError."""
    if isinstance(media, Files):
        save_paths(folder, media.paths)
        if media.stretches_N2 is None:
            return {"root": media.root}
        (folder / STRETCHES).write_bytes(media.stretches_N2.tobytes())
        return {"root": media.root, "stretches": STRETCHES}
    assert isinstance(media, media_table.Table)
    if media.saved_split is not None:
        return {"table": media.name, "split": media.saved_split, "column": media.column}
    media_table.save_table(media, folder / "table")
    return {"column": media.column}


def open_items(folder: Path, name: str, place: Place) -> Media:
    """The items of a prepared folder, called `name` in messages; they keep no labels but the folders of files.

    Raises: ConfigError if they are damaged, or their files are not where they were.
    """
    if "root" not in place:
        column = place["column"]
        saved = Path(place.get("table", folder / "table"))
        table = media_table.open_saved(
            saved, column=column, split=place.get("split", "train"), label_column="", column_option="data.column"
        )
        return replace(table, name=name)
    paths = MappedPaths(folder)
    try:
        is_whole = paths.is_whole()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder}: its list of files cannot be read ({error}); remove the folder and prepare it again") from error
    if not is_whole:
        raise ConfigError(f"{folder}: paths.bin is damaged; remove the folder and prepare it again")
    if not os.path.isdir(place["root"]):
        raise ConfigError(f"{folder}: its files were in {place['root']}, which is not there; put them back or prepare again from elsewhere")
    return Files(name, place["root"], paths, stretches_N2=_open_stretches(folder, len(paths)) if "stretches" in place else None)


def _open_stretches(folder: Path, num_items: int) -> np.ndarray:
    try:
        return map_array(folder / STRETCHES, np.float64).reshape(num_items, 2)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder}: {STRETCHES} is damaged ({error}); remove the folder and prepare it again") from error
