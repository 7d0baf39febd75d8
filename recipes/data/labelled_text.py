"""Labelled text: a folder of csv, tsv, jsonl or parquet files, one per split, or a hub name."""

from pathlib import Path
from typing import Any

from recipes.data.media_table import names_of
from recipes.data.source import load_hub
from recipes.data.text_tables import TABLE_FORMATS, TableFile
from recipes.errors import ConfigError, MissingSplit


def load_split(path: str | None, split: str, columns: tuple[str, ...]) -> dict[str, list[Any]]:
    """The columns of one split, row by row.

    Raises: ConfigError where there is no such data, split or column.
    """
    if path is None:
        raise ConfigError("the shipped text has no labels; give --data a folder with train.csv and test.csv (columns text and label)")
    folder = Path(path).expanduser()
    if not folder.exists():
        return _load_hub(path, split, columns)
    if not folder.is_dir():
        raise ConfigError(f"{folder}: one file is one split; point --data at a folder with train.csv and test.csv")
    return _load_file(_file_of(folder, split), columns)


def _file_of(folder: Path, split: str) -> Path:
    files = {file.stem: file for file in sorted(folder.iterdir()) if file.suffix in TABLE_FORMATS}
    name = next((name for name in names_of(split) if name in files), None)
    if name is None:
        raise MissingSplit(
            f"{folder}: no split {split!r}, there are {', '.join(files) or 'no tables'}; name the files train.csv and test.csv"
        )
    return files[name]


def _load_file(path: Path, columns: tuple[str, ...]) -> dict[str, list[Any]]:
    table = TableFile(path)
    _check_columns(str(path), columns, table.columns())
    rows = [row.cells for row in table.rows(columns)]
    return {column: [cells[place] for cells in rows] for place, column in enumerate(columns)}


def _load_hub(name: str, split: str, columns: tuple[str, ...]) -> dict[str, list[Any]]:
    rows = load_hub(name, split)
    _check_columns(name, columns, rows.column_names)
    return {column: list(rows[column]) for column in columns}


def _check_columns(name: str, columns: tuple[str, ...], there: list[str]) -> None:
    missing = [column for column in columns if column not in there]
    if missing:
        raise ConfigError(f"{name}: no column {missing[0]!r}, there are {', '.join(there)}; name the class with --label-column NAME")
