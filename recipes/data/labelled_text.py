"""Labelled text: a folder of csv, tsv, jsonl or parquet files with the split in their names, one such file, a saved data set, or a hub
name. GLUE's own files: glue.py."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from recipes.data.datasets_library import is_saved, load_hub, load_saved, read_parquet, table_errors
from recipes.data.folder import list_folder, resolve_data_path
from recipes.data.labels import class_name
from recipes.data.splits import check_file, choose_files, find_split_name
from recipes.data.text_tables import TABLE_FORMATS, TableFile, kind_of
from recipes.errors import ConfigError, MissingSplit

CHOOSE_COLUMNS = "--set data.text_columns=NAME chooses others, NAME,NAME two of a pair"


class LabelledText(NamedTuple):
    """One split of labelled sentences: for each row its text and its class, and the names of the table's columns."""

    texts: list[Any]
    labels: list[str | None]
    """Class of each row; None if the row has none. All None if the table has no label column."""
    columns: list[str]


class TableSplit(NamedTuple):
    """Some columns of one split of a table: their cells, the names of all columns, and the class names of columns of numbered classes."""

    cells: dict[str, list[Any]]
    columns: list[str]
    class_names: dict[str, Sequence[str]]


def load_split(path: str | None, split: str, text_column: str, label_column: str) -> LabelledText:
    """Load the texts and classes of one split of a folder with tables, of a saved data set or of a hub data set.

    Raises: ConfigError if there is no such data or column of texts; MissingSplit if there is no such split.
    """
    rename = f"rename the column of texts to {text_column!r}"  # a pre-trained run keeps its data.text_column
    table = load_table(path, split, (text_column,), label_column, remedy=rename)
    texts, names = table.cells[text_column], table.class_names.get(label_column)
    cells = table.cells.get(label_column, [None] * len(texts))
    return LabelledText(texts, [class_name(cell, names) for cell in cells], table.columns)


def load_table(path: str | None, split: str, text_columns: Sequence[str], label_column: str, *, remedy: str = CHOOSE_COLUMNS) -> TableSplit:
    """Load columns of one split of a folder with tables, of a saved data set or of a hub data set. A single file is the split train. The
    label column may be missing. `remedy`: what the user can do if a column of texts is missing.

    Raises: ConfigError if there is no such data or column of texts; MissingSplit if there is no such split.
    """
    if path is None:
        raise ConfigError("the shipped text has no labels; give --data a folder with train.csv and test.csv (columns text and label)")
    columns = _Columns(tuple(text_columns), label_column, remedy)
    folder = resolve_data_path(path)
    if folder is None:
        return _from_dataset(load_hub(path, split), path, columns)
    if folder.is_dir() and is_saved(folder):
        return _from_dataset(load_saved(folder, split)[0], path, columns)
    files = _split_files(folder, split) if folder.is_dir() else [_only_file(folder, split)]
    if kind_of(files[0]) == ".parquet":  # read by `datasets`, because it may contain the names of numbered classes
        with table_errors(str(files[0] if len(files) == 1 else folder)):
            return _from_dataset(read_parquet(files), path, columns)
    return _from_files(files, columns)


class _Columns(NamedTuple):
    """The columns that are read: those of texts must be there, that of labels may be missing."""

    texts: tuple[str, ...]
    label: str
    remedy: str

    def check(self, name: str, there: Sequence[str]) -> None:
        """Raises: ConfigError if a column of texts is not `there`. `name`: of the file or data set."""
        missing = [column for column in self.texts if column not in there]
        if missing:
            raise ConfigError(f"{name}: no column {missing[0]!r}, there are {', '.join(there)}; {self.remedy}")


def _only_file(file: Path, split: str) -> Path:
    if kind_of(file) not in TABLE_FORMATS:
        raise ConfigError(f"{file}: no table; give one of {', '.join(TABLE_FORMATS)}, or a folder with train.csv and test.csv")
    check_file(file, split)
    return file


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


def _from_files(files: list[Path], columns: _Columns) -> TableSplit:
    wanted = (*columns.texts, columns.label)
    found = TableSplit({name: [] for name in wanted}, [], {})
    for file in files:
        table = TableFile(file)
        there = table.columns()
        columns.check(str(file), there)
        found.columns.extend(name for name in there if name not in found.columns)
        for row in table.rows(wanted):
            for name, cell in zip(wanted, row.cells, strict=True):
                found.cells[name].append(cell)
    if columns.label not in found.columns:
        del found.cells[columns.label]
    return found


def _from_dataset(rows: Any, name: str, columns: _Columns) -> TableSplit:
    there = rows.column_names
    columns.check(name, there)
    wanted = (*columns.texts, *[columns.label] * (columns.label in there))
    names = {one: rows.features[one].names for one in wanted if getattr(rows.features[one], "names", None)}
    return TableSplit({one: list(rows[one]) for one in wanted}, there, names)
