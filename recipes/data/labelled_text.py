"""Labelled text: a folder of csv, tsv, jsonl or parquet files, one per split, or a hub name, read by `datasets`."""

from pathlib import Path
from typing import Any

from recipes.data.folder import find_place, list_folder
from recipes.data.source import TABLE_BUILDERS, kind_of, load_hub, table_builder, table_errors
from recipes.data.splits import choose_files
from recipes.errors import ConfigError, MissingSplit


def load_split(path: str | None, split: str, columns: tuple[str, ...]) -> dict[str, list[Any]]:
    """The columns of one split, row by row.

    Raises: ConfigError where there is no such data, split or column.
    """
    if path is None:
        raise ConfigError("the shipped text has no labels; give --data a folder with train.csv and test.csv (columns text and label)")
    folder = find_place(path)
    if folder is None:
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
    listing = list_folder(folder)
    tables = [path for path in listing.files if kind_of(path) in TABLE_BUILDERS]
    if not tables:
        raise MissingSplit(f"{folder}: no split {split!r}, there are no tables; name the files train.csv and test.csv")
    files = [folder / path for path in choose_files(listing, tables, split, is_item=lambda path: False).paths]
    kinds = sorted(set(map(kind_of, files)))
    if len(kinds) > 1:
        raise ConfigError(f"{folder}: split {split!r} is in more than one kind of file ({', '.join(kinds)}); leave one")
    name = files[0] if len(files) == 1 else folder
    with table_errors(str(name)):
        builder = table_builder(files)
        builder.download_and_prepare()
        return builder.as_dataset(split="train")
