"""Recordings and images whose bytes are in a table: parquet files, data sets saved by `datasets`, hub data sets. Nothing is decoded
here, so neither torchcodec nor Pillow is needed."""

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from recipes.data.datasets_library import describe_rows, files_of, load_hub, load_saved, read_parquet, table_errors
from recipes.data.labels import class_name
from recipes.data.libraries import required
from recipes.errors import ConfigError


@dataclass(frozen=True)
class Table:
    """Items that are the rows of a table. Implements media.Media. A cell contains bytes, or a struct of bytes and path, as `datasets`
    stores audio and images."""

    name: str
    dataset: Any
    """A memory-mapped datasets.Dataset: pickled as the names of its files."""
    column: str
    label_column: str
    saved_split: str | None = None
    """The requested split, if `name` is a folder that open_saved reads; else None."""
    note: str = ""
    """Line for the log: what is read and what is left out; "" if there is nothing to say."""
    files: Sequence[Path] = ()
    """The files that the rows are read from; () for a hub data set, which is read from the cache."""

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, index: int) -> bytes:
        """Return the item's bytes. Raises: OSError if the row contains neither bytes nor the path of an existing file."""
        value = self._rows[index][self.column][0].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        if content is None:
            path = value.get("path") if isinstance(value, dict) else None
            if path is None:
                raise OSError("the row is empty")
            content = Path(path).read_bytes()
        return content

    def open(self, index: int) -> BinaryIO:
        """Open the item's bytes as a file. Raises: OSError if the row contains neither bytes nor the path of an existing file."""
        return io.BytesIO(self.read(index))

    def size(self, index: int) -> int:
        """Return the size of the item in bytes, without reading it if its bytes are in the table. Raises: OSError if the row contains
        neither bytes nor the path of an existing file."""
        value = self._rows[index][self.column][0]
        scalar = value["bytes"] if value.is_valid and hasattr(value, "keys") else value
        return scalar.as_buffer().size if scalar.is_valid else len(self.read(index))

    def key(self, index: int) -> str:
        """Return the index as text. It is the item's name in the fingerprint of the data, because rows have no other name."""
        return str(index)

    def where(self, index: int) -> str:
        """Return the item's location for messages: `train.parquet row 17`. Rows count from 1."""
        return f"{self.name} row {index + 1}"

    def file(self, index: int) -> None:
        """Return None, because a row is not a file of its own."""

    def segment(self, index: int) -> None:
        """Return None, because a row's bytes are a whole file."""

    def origin(self, index: int) -> str:
        """Return an id of the file that contains the item: the file's full path if the row has a path and no bytes, else the row's
        location."""
        value = self._rows[index][self.column][0]
        path = value["path"].as_py() if value.is_valid and hasattr(value, "keys") and not value["bytes"].is_valid else None
        return os.path.realpath(path) if path else self.where(index)

    def label(self, index: int) -> str | None:
        """Return the label column's value as text (the name of a class, not its number), or None if there is no such column or value."""
        feature = self.dataset.features.get(self.label_column)
        if feature is None:
            return None
        return class_name(self._labels[index][self.label_column][0].as_py(), getattr(feature, "names", None))

    @property
    def columns(self) -> list[str]:
        """Names of the table's columns."""
        return self.dataset.column_names

    @cached_property
    def _rows(self) -> Any:
        return self.dataset.with_format("arrow", columns=[self.column])  # "arrow" gives the stored bytes without decoding

    @cached_property
    def _labels(self) -> Any:
        return self.dataset.with_format("arrow", columns=[self.label_column])


def open_parquet(name: Path, files: Sequence[Path], *, column: str, label_column: str, column_option: str, note: str = "") -> Table:
    """Open the rows of these parquet files, one file after another, as items. `name`: the path that the user named. `column`: the column of
    the items' bytes. `column_option`: the option that chooses it, for messages.

    Raises: ConfigError if a file cannot be read, or if the column is missing or does not contain bytes.
    """
    with _no_progress_bars(), table_errors(str(name)):
        dataset = read_parquet(files)
    return replace(_table(str(name), dataset, column, label_column, column_option), note=note, files=files)


def open_saved(folder: Path, *, column: str, split: str | None, label_column: str, column_option: str) -> Table:
    """Open the rows of a folder that save_to_disk wrote as items, without copying it. If `split` is None, open train, or all rows if the
    folder has no splits. `column`: the column of the items' bytes. `column_option`: the option that chooses it, for messages.

    Raises: ConfigError if it cannot be read, or if the column is missing or does not contain bytes; MissingSplit if it has no such split.
    """
    dataset, note = load_saved(folder, split)
    table = _table(str(folder), dataset, column, label_column, column_option)
    return replace(table, saved_split=split or "train", note=note, files=files_of(dataset))


def open_hub(name: str, *, column: str, split: str | None, label_column: str, column_option: str) -> Table:
    """Open a split of the hub data set `name` or `name:config`. If `split` is None, open train. `column`: the column of the items' bytes.
    `column_option`: the option that chooses it, for messages.

    Raises: ConfigError if it cannot be downloaded, or if the column is missing or contains no bytes; MissingSplit if it has no such split.
    """
    requested = split or "train"
    with _no_progress_bars():
        dataset = load_hub(name, requested)
    return replace(_table(name, dataset, column, label_column, column_option), note=describe_rows(requested, dataset))


def save_table(table: Table, folder: Path) -> None:
    """Write the items' column alone into a folder that open_saved reads without cache or network. Raises: OSError."""
    with _no_progress_bars():
        table.dataset.select_columns([table.column]).save_to_disk(str(folder))


def _table(name: str, dataset: Any, column: str, label_column: str, column_option: str) -> Table:
    """Return the items of a loaded data set. Raises: ConfigError if the column does not exist or does not contain bytes."""
    if column not in dataset.column_names:
        raise ConfigError(f"{name}: no column {column!r}, there are {', '.join(dataset.column_names)}; {column_option}NAME")
    kind = dataset.data.schema.field(column).type
    if str(kind) not in ("binary", "large_binary") and not str(kind).startswith("struct<bytes: "):
        raise ConfigError(f"{name}: column {column!r} holds {kind}, not the bytes of files; {column_option}NAME")
    return Table(name, dataset, column, label_column)


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """In this block, `datasets` shows no progress bars, which would fill log files."""
    datasets = required("datasets")
    was_shown = not datasets.utils.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if was_shown:
            datasets.enable_progress_bars()
