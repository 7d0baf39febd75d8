"""Labelled text: a folder of csv, tsv, jsonl or parquet files, one per split, a saved data set, or a hub name, read by `datasets`."""

from pathlib import Path
from typing import Any, NamedTuple

from recipes.data.labels import class_name
from recipes.data.media_table import load_hub_split, load_saved, names_of
from recipes.data.source import TABLE_BUILDERS, table_errors
from recipes.errors import ConfigError, MissingSplit


class LabelledText(NamedTuple):
    """One split, row by row."""

    texts: list[Any]
    labels: list[str | None]
    """All None where the table has no such column."""
    columns: list[str]


def load_split(path: str | None, split: str, text_column: str, label_column: str) -> LabelledText:
    """One split's texts and classes.

    Raises: ConfigError where there is no such data, split or column of texts.
    """
    if path is None:
        raise ConfigError("the shipped text has no labels; give --data a folder with train.csv and test.csv (columns text and label)")
    folder = Path(path).expanduser()
    if not folder.exists():
        rows = load_hub_split(path, split)
    elif not folder.is_dir():
        raise ConfigError(f"{folder}: one file is one split; point --data at a folder with train.csv and test.csv")
    elif (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
        rows = load_saved(folder, split)
    else:
        rows = _load_folder(folder, split)
    columns = rows.column_names
    if text_column not in columns:
        raise ConfigError(
            f"{path}: no column {text_column!r}, there are {', '.join(columns)}; rename the column of texts to {text_column!r}"
        )
    texts = list(rows[text_column])
    if label_column not in columns:
        return LabelledText(texts, [None] * len(texts), columns)
    names = getattr(rows.features[label_column], "names", None)
    return LabelledText(texts, [class_name(value, names) for value in rows[label_column]], columns)


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
