"""Opens a split of labelled recordings or images. Beside all that media_source.py opens, a folder may have one list of files for each split
(train.csv, test.csv): they have the labels, so they are read in place of the folder's files."""

from pathlib import Path

from recipes.data import manifest
from recipes.data.datasets_library import is_saved
from recipes.data.folder import resolve_data_path
from recipes.data.media import Media, MediaKind
from recipes.data.media_source import open_media
from recipes.data.splits import find_split_name, split_of
from recipes.errors import ConfigError, MissingSplit


def open_labelled_media(source: str, kind: MediaKind, *, column: str, split: str, label_column: str) -> Media:
    """Open a split of labelled items: that of the list which is named for the split, if `source` is a folder with lists, else what
    open_media() opens. Raises: ConfigError; MissingSplit if there is no such split."""
    folder = resolve_data_path(source)
    lists = _lists_of(folder) if folder is not None and folder.is_dir() and not is_saved(folder) else []
    if not lists:
        return open_media(source, kind, column=column, split=split, label_column=label_column)
    named = [path for path in lists if path.stem == split or split_of(path.stem) == split_of(split)]
    if not named:
        raise MissingSplit(f"{folder}: no list of split {split!r}; there are {', '.join(path.name for path in lists)}")
    if len(named) > 1:
        raise ConfigError(f"{folder}: split {split!r} has more than one list ({', '.join(path.name for path in named)}); leave one")
    return open_media(str(named[0]), kind, column=column, label_column=label_column)


def _lists_of(folder: Path) -> list[Path]:
    """Return the lists in the folder itself that are named for a split, sorted."""
    found = (path for path in folder.iterdir() if path.suffix.lower() in manifest.SUFFIXES and path.is_file())
    return sorted(path for path in found if find_split_name(path.stem))
