"""Labelled text: a folder of csv, tsv, jsonl or parquet files, one per split, or a hub name, read by `datasets`."""

from pathlib import Path
from typing import Any

from recipes.data.media_table import names_of
from recipes.data.source import TABLE_BUILDERS, load_hub, table_errors
from recipes.errors import ConfigError, MissingSplit


def load_split(path: str | None, split: str, columns: tuple[str, ...]) -> dict[str, list[Any]]:
    """The columns of one split, row by row.

    Raises: ConfigError where there is no such data, split or column.
    """
    if path is None:
        raise ConfigError("the shipped text has no labels; give --data a folder with train.csv and test.csv (columns text and label)")
    folder = Path(path).expanduser()
    if not folder.exists():
        rows = load_hub(path, split)
    elif not folder.is_dir():
        raise ConfigError(f"{folder}: one file is one split; point --data at a folder with train.csv and test.csv")
    else:
        rows = _load_folder(folder, split)
    missing = [column for column in columns if column not in rows.column_names]
    if missing:
        raise ConfigError(
            f"{path}: no column {missing[0]!r}, there are {', '.join(rows.column_names)}; name the class with --label-column NAME"
        )
    return {column: list(rows[column]) for column in columns}


def _load_folder(folder: Path, split: str) -> Any:
    from datasets import load_dataset

    files = {file.stem: file for file in sorted(folder.iterdir()) if file.suffix in TABLE_BUILDERS}
    name = next((name for name in names_of(split) if name in files), None)
    if name is None:
        raise MissingSplit(
            f"{folder}: no split {split!r}, there are {', '.join(files) or 'no tables'}; name the files train.csv and test.csv"
        )
    options = {"sep": "\t"} if files[name].suffix == ".tsv" else {}
    with table_errors(str(files[name])):
        return load_dataset(TABLE_BUILDERS[files[name].suffix], data_files=str(files[name]), split="train", **options)
