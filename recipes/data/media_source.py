"""Opens the recordings or images that `data.path` names: data.path -> Media. Reads lists and file names, but no item."""

import os
from pathlib import Path

import numpy as np

from recipes.data import manifest, media_table
from recipes.data.datasets_library import is_saved
from recipes.data.folder import Listing, count_suffixes, list_folder, resolve_data_path
from recipes.data.manifest import Segment
from recipes.data.media import Files, Media, MediaKind
from recipes.data.shards import is_prepared
from recipes.data.splits import check_file, choose_files, find_split_name
from recipes.errors import ConfigError


def open_media(path: str | None, kind: MediaKind, *, column: str, split: str | None = None, label_column: str = "label") -> Media:
    """Open the items that `path` names: a folder of files, a list of files, parquet, a saved data set or a hub name. If `path` is None,
    open the shipped sample. `split`: train, valid, test, all, or the name of a folder in the data. If `split` is None, open the training
    data. `column`: the column of the files' paths, or of their bytes.

    Raises: ConfigError if the path does not exist, contains no data of this kind, has no such column, or if its names do not show which
    files are training data; MissingSplit if it has no such split.
    """
    full_path = resolve_data_path(kind.sample if path is None else path)
    columns = {"column": column, "label_column": label_column, "column_option": kind.column_option}
    if full_path is None:
        if Path(str(path)).suffix.lower() in (*kind.suffixes, *manifest.SUFFIXES, ".parquet"):
            raise ConfigError(f"--data {path}: no such file or folder")
        return media_table.open_hub(str(path), split=split, **columns)
    if full_path.is_dir():
        return _open_folder(full_path, kind, split, columns)
    return _open_file(full_path, kind, split, columns)


def _open_folder(folder: Path, kind: MediaKind, split: str | None, columns: dict[str, str]) -> Media:
    if is_prepared(folder):
        raise ConfigError(f"{folder}: a prepared folder, which has no labels and no files of its own; give the data it was made from")
    if is_saved(folder):
        return media_table.open_saved(folder, split=split, **columns)
    listing = list_folder(folder, find_split_name)
    known = [path for path in listing.files if path.lower().endswith((*kind.suffixes, ".parquet"))]
    if not known:
        raise ConfigError(_nothing_found(listing, kind))
    choice = choose_files(listing, known, split, is_item=lambda path: not _is_parquet(path))
    tables = sum(map(_is_parquet, choice.paths))
    if 0 < tables < len(choice.paths):
        found = f"{len(choice.paths) - tables} {kind.name} files, {tables} .parquet"
        raise ConfigError(f"{folder}: more than one kind of data ({found}); point --data at a folder with one kind")
    note = choice.describe(sorted(set(listing.files) - set(known)))
    if tables:
        return media_table.open_parquet(folder, [folder / path for path in choice.paths], note=note, **columns)
    root = os.path.join(folder, choice.root) if choice.root else str(folder)
    paths = [path.removeprefix(f"{choice.root}/") for path in choice.paths]
    return Files(str(folder), root, paths, choice.labels, note=note)


def _open_file(path: Path, kind: MediaKind, split: str | None, columns: dict[str, str]) -> Media:
    suffix = path.suffix.lower()
    if suffix in kind.suffixes:
        raise ConfigError(f"{path}: one single {kind.name} file; point --data at its folder, or at a list of files")
    if suffix not in (*manifest.SUFFIXES, ".parquet"):
        raise ConfigError(f"{path}: unknown kind of file {suffix or '(no suffix)'}; known are {_known(kind)}")
    check_file(path, split)
    if suffix == ".parquet":
        return media_table.open_parquet(path, [path], **columns)
    listed = manifest.read_manifest(path, **columns, has_segments=kind.has_segments)
    return Files(str(path), listed.root, listed.paths, listed.labels, _as_array(listed.segments), listed.columns, listed.segment_columns)


def _as_array(segments: list[Segment | None]) -> np.ndarray | None:
    if not any(segments):
        return None
    return np.array([(np.nan, np.nan) if segment is None else segment for segment in segments], dtype=np.float64)


def _is_parquet(path: str) -> bool:
    return path.lower().endswith(".parquet")


def _nothing_found(listing: Listing, kind: MediaKind) -> str:
    lists = [path for path in listing.files if path.lower().endswith(manifest.SUFFIXES)]
    hint = f"; if {lists[0]} is a list of files, point --data at it" if lists else ""
    found = "; ".join([count_suffixes(listing.files), *listing.skipped[:1]])
    return f"{listing.folder}: no {kind.name} in it, found {found}; known are {_known(kind)}{hint}"


def _known(kind: MediaKind) -> str:
    return f"folders of {', '.join(kind.suffixes)}, {', '.join(manifest.SUFFIXES)} with a column of paths, and .parquet"
