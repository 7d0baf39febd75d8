"""Stores the items of a prepared folder in a form that every process opens fast: the paths of the files, which are not copied, or a table
of the bytes. Scanning and splits are in media_folder.py.

    paths.bin, path_ends.bin    the files' paths one after another, and int64 byte offsets of their ends
    stretches.bin               only if items are segments of files: float64 start and length of each item in seconds
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

SEGMENTS_FILE = "stretches.bin"
PATHS_PER_WRITE = 4096
ItemsLocation = dict[str, str]
"""Where the bytes of a prepared folder's items are: keys and values that are stored in prepared.json and that open_items reads.

Files: `root`, and `stretches` if there is a stretches.bin. A table that was copied: `column`. A table that is read from its own folder:
`table`, `split`, `column`."""


class MappedPaths(Sequence[str]):
    """The sequence of the paths that save_paths wrote into a prepared folder. The file is memory-mapped at the first access. Pickling
    keeps only the folder's path."""

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
        """True if paths.bin is as long as path_ends.bin says. Raises: OSError or ValueError if one of them cannot be read."""
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
    """Write the paths to paths.bin and path_ends.bin in the folder. MappedPaths reads them. Raises: OSError."""
    sizes = np.empty(len(paths), dtype=np.int64)
    with open(folder / "paths.bin", "wb") as file:
        for start in range(0, len(paths), PATHS_PER_WRITE):  # all encoded paths at once would take as much memory as the paths
            encoded = [os.fsencode(path) for path in paths[start : start + PATHS_PER_WRITE]]
            sizes[start : start + PATHS_PER_WRITE] = [len(path) for path in encoded]
            file.write(b"".join(encoded))
    (folder / "path_ends.bin").write_bytes(np.cumsum(sizes).tobytes())


def save_items(media: Media, folder: Path) -> ItemsLocation:
    """Write what open_items needs into the prepared folder: the paths of the items' files, or a copy of the items' table. A table that
    save_to_disk wrote is not copied. Return where the items are, as keys and values for prepared.json. Raises: OSError."""
    if isinstance(media, Files):
        save_paths(folder, media.paths)
        if media.segments_N2 is None:
            return {"root": media.root}
        (folder / SEGMENTS_FILE).write_bytes(media.segments_N2.tobytes())
        return {"root": media.root, "stretches": SEGMENTS_FILE}
    assert isinstance(media, media_table.Table)
    if media.saved_split is not None:
        return {"table": media.name, "split": media.saved_split, "column": media.column}
    media_table.save_table(media, folder / "table")
    return {"column": media.column}


def open_items(folder: Path, name: str, location: ItemsLocation) -> Media:
    """Open the items that save_items has stored in a prepared folder. `name`: the data set's name, for messages. `location`: the value that
    save_items returned. Labels are not stored, so a file's label is its folder, and rows of a table have none.

    Raises: ConfigError if a stored file is damaged, or if the folder of the items' files is missing.
    """
    if "root" not in location:
        column = location["column"]
        saved = Path(location.get("table", folder / "table"))
        table = media_table.open_saved(
            saved, column=column, split=location.get("split", "train"), label_column="", column_option="--set data.column="
        )
        return replace(table, name=name)
    paths = MappedPaths(folder)
    try:
        is_whole = paths.is_whole()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder}: its list of files cannot be read ({error}); remove the folder and prepare it again") from error
    if not is_whole:
        raise ConfigError(f"{folder}: paths.bin is damaged; remove the folder and prepare it again")
    if not os.path.isdir(location["root"]):
        raise ConfigError(
            f"{folder}: its files were in {location['root']}, which is not there; put them back or prepare again from elsewhere"
        )
    return Files(name, location["root"], paths, segments_N2=_open_segments(folder, len(paths)) if "stretches" in location else None)


def _open_segments(folder: Path, num_items: int) -> np.ndarray:
    try:
        return map_array(folder / SEGMENTS_FILE, np.float64).reshape(num_items, 2)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder}: {SEGMENTS_FILE} is damaged ({error}); remove the folder and prepare it again") from error
