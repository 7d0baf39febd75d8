"""Labelled text: a folder of csv, tsv, jsonl or parquet files with the split in their names, a saved data set, or a hub name."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from recipes.data.datasets_library import is_saved, load_hub, load_saved, read_parquet, table_errors
from recipes.data.folder import list_folder, resolve_data_path
from recipes.data.labels import class_name
from recipes.data.splits import choose_files, find_split_name
from recipes.data.text_tables import TABLE_FORMATS, TableFile, kind_of
from recipes.errors import ConfigError, MissingSplit


class LabelledText(NamedTuple):
    """One split of labelled sentences: for each row its text and its class, and the names of the table's columns."""

    texts: list[Any]
    labels: list[str | None]
    """Class of each row; None if the row has none. All None if the table has no label column."""
    columns: list[str]


def load_split(path: str | None, split: str, text_column: str, label_column: str) -> LabelledText:
    """Load the texts and classes of one split of a folder with tables, of a saved data set or of a hub data set.

    Raises: ConfigError if there is no such data or column of texts; MissingSplit if there is no such split.
    """
    if path is None:
        raise ConfigError("the shipped text has no labels; give --data a folder with train.csv and test.csv (columns text and label)")
    folder = resolve_data_path(path)
    if folder is None:
        return _from_dataset(load_hub(path, split), path, text_column, label_column)
    if not folder.is_dir():
        raise ConfigError(f"{folder}: one file is one split; point --data at a folder with train.csv and test.csv")
    if is_saved(folder):
        return _from_dataset(load_saved(folder, split)[0], path, text_column, label_column)
    files = _split_files(folder, split)
    if kind_of(files[0]) == ".parquet":  # read by `datasets`, because it may contain the names of numbered classes
        with table_errors(str(files[0] if len(files) == 1 else folder)):
            return _from_dataset(read_parquet(files), path, text_column, label_column)
    return _from_files(files, text_column, label_column)


def _split_files(folder: Path, split: str) -> list[Path]:
    listing = list_folder(folder, find_split_name)
    tables = [path for path in listing.files if kind_of(path) in TABLE_FORMATS]
    if not tables:
        raise MissingSplit(f"{folder}: no split {split!r}, there are no tables; name the files train.csv and test.csv")
    files = [folder / path for path in choose_files(listing, tables, split, is_item=lambda path: False).paths]
    kinds = sorted(set(map(kind_of, files)))
    if len(kinds) > 1:
        raise ConfigError(f"{folder}: split {split!r} is in more than one kind of file ({', '.join(kinds)}); leave one")
    return files


def _from_files(files: list[Path], text_column: str, label_column: str) -> LabelledText:
    found = LabelledText([], [], [])
    for file in files:
        table = TableFile(file)
        columns = table.columns()
        _check_column(str(file), text_column, columns)
        found.columns.extend(name for name in columns if name not in found.columns)
        for row in table.rows((text_column, label_column)):
            text, label = row.cells
            found.texts.append(text)
            found.labels.append(class_name(label, None))
    return found


def _from_dataset(rows: Any, name: str, text_column: str, label_column: str) -> LabelledText:
    columns, texts = rows.column_names, list[Any]()
    _check_column(name, text_column, columns)
    texts += rows[text_column]
    if label_column not in columns:
        return LabelledText(texts, [None] * len(texts), columns)
    names = getattr(rows.features[label_column], "names", None)
    return LabelledText(texts, [class_name(value, names) for value in rows[label_column]], columns)


def _check_column(name: str, column: str, columns: Sequence[str]) -> None:
    if column not in columns:
        raise ConfigError(f"{name}: no column {column!r}, there are {', '.join(columns)}; rename the column of texts to {column!r}")
