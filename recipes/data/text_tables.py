"""Reads tables in files: csv, tsv, json, jsonl (each also with .gz) and parquet. Yields rows with only the requested columns. It is the
same for all modalities, and neither lists folders nor chooses splits.

A cell is not interpreted: NA, null and None in a csv are text, and an empty cell is None. A tsv has no quoting. Columns that are not
requested may differ between files and between rows.
"""

import csv
import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from recipes.data.libraries import required
from recipes.errors import ConfigError, first_line

MAX_CELL = (1 << 31) - 1
"""Maximum number of characters in a cell of a csv."""
ROWS_WITH_COLUMNS = 1000
"""Rows of a json file from which its columns are collected, since its rows may have different columns."""
ROWS_PER_BATCH = 256
STRING_COLUMN = "text"
"""Name of the column of a json file that contains plain strings."""
END_OF_FILE = "\0end of file"
READ_ERRORS = (OSError, EOFError, zlib.error, ValueError, RecursionError)
"""Exceptions that mean that a table cannot be read. Those of pyarrow, json and text decoding are subclasses of them."""


class Row(NamedTuple):
    """The requested cells of a row, with the numbers of row and line. Both count from 1. A header is line 1 and is not a row."""

    number: int
    line: int | None
    """The last line of the row. None in a parquet file."""
    cells: Sequence[Any]

    @property
    def place(self) -> str:
        """The row's location in its file, for messages: `row 7 (line 8)`."""
        return f"row {self.number}" + (f" (line {self.line})" if self.line else "")


Cells = tuple[int | None, Sequence[Any]]
"""Line and cells of a row."""


class _BrokenTableError(ValueError):
    """A table cannot be read. The message is the reason."""


@dataclass(frozen=True)
class TableFile:
    """Reads the columns and the rows of one file that contains a table (csv, tsv, json, jsonl or parquet)."""

    path: Path

    def columns(self) -> list[str]:
        """Return the names of the columns: from the header, the schema, or the first rows of a json file. Raises: ConfigError if the file
        cannot be read."""
        number = 0
        names: dict[str, None] = {}
        try:
            for head in islice(self._format.heads(self.path), ROWS_WITH_COLUMNS):
                names |= dict.fromkeys(head)
                number += 1
        except READ_ERRORS as error:
            raise self._complaint(number + 1, error) from error
        return list(names)

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """Yield every row in order. A cell that is empty, null or missing is None.

        Raises: ConfigError with the file and the row that cannot be read.
        """
        number = 0
        try:
            for number, (line, cells) in enumerate(self._format.rows(self.path, columns), start=1):
                yield Row(number, line, cells)
        except READ_ERRORS as error:
            raise self._complaint(number + 1, error) from error

    @property
    def _format(self) -> "_Format":
        return TABLE_FORMATS[kind_of(self.path)]

    def _complaint(self, row: int, error: Exception) -> ConfigError:
        if isinstance(error, UnicodeDecodeError):
            found = f"{self.path} line {_undecodable_line(self.path)}: byte 0x{error.object[error.start]:02x} is not UTF-8"
            return ConfigError(f"{found}; convert the file, for example iconv -f latin1 -t utf-8")
        return ConfigError(f"{self.path} row {row}: cannot be read as a table ({first_line(error)}); fix or remove it")


def kind_of(path: str | Path) -> str:
    """Return the suffix of the file's format in lower case, such as .csv for a.CSV and for a.csv.gz. "" if there is none."""
    name = os.path.basename(path).lower().removesuffix(".gz")
    return os.path.splitext(name)[1]


@contextmanager
def _open_text(path: Path, newline: str | None) -> Iterator[io.TextIOWrapper]:
    with _open_bytes(path) as file:
        if not file.peek(1):
            raise _BrokenTableError("empty file")
        yield io.TextIOWrapper(file, encoding="utf-8-sig", newline=newline)


@contextmanager
def _open_bytes(path: Path) -> Iterator[io.BufferedReader]:
    with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb") as file:
        yield io.BufferedReader(file, 1 << 17)


def _undecodable_line(path: Path) -> int:
    """Return the number, from 1, of the file's first line that is not UTF-8, or 0 if there is none. It is needed because tables are decoded
    in blocks, whose errors have no line number."""
    with _open_bytes(path) as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 0


class _CellReader:
    """Reader of csv and tsv. The first line that is not empty has the names of the columns."""

    def __init__(self, newline: str, split: Callable[[Iterable[str]], Iterator[tuple[int, list[str]]]]) -> None:
        self._newline, self._split = newline, split

    def heads(self, path: Path) -> Iterator[Iterable[str]]:
        with _open_text(path, self._newline) as file:
            yield next((cells for _, cells in self._split(file) if cells), [])

    def rows(self, path: Path, columns: Sequence[str]) -> Iterator[Cells]:
        with _open_text(path, self._newline) as file:
            lines = self._split(file)
            header = next((cells for _, cells in lines if cells), [])
            places = [header.index(column) if column in header else None for column in columns]
            needed = max((place for place in places if place is not None), default=-1)
            for line, cells in lines:
                if not needed < len(cells) <= len(header):
                    if not cells:
                        continue
                    _check_width(line, cells, header, needed)
                yield line, [None if place is None else cells[place] or None for place in places]


def _check_width(line: int, cells: list[str], header: list[str], needed: int) -> None:
    """Check the number of cells in a row. Extra cells at the end are allowed if they are empty. Missing cells are allowed if their columns
    are not requested. Raises: _BrokenTableError for any other number."""
    if len(cells) <= needed or any(cells[len(header) :]):
        raise _BrokenTableError(f"line {line} has {len(cells)} cells, the header {len(header)}: a separator or line break in a cell?")


def _split_csv(file: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(MAX_CELL)  # applies to the whole process: a reader has no limit of its own
    lines = iter(file)
    number = 0
    for line in lines:
        if '"' not in line:  # four times as fast as csv.reader
            number += 1
            text = line.rstrip("\r\n")
            yield number, text.split(",") if text else []
            continue
        reader = csv.reader(chain([line], lines, [END_OF_FILE]))
        cells = next(reader)
        if cells[-1].endswith(END_OF_FILE):
            raise _BrokenTableError(f"a quotation mark that line {number + 1} opens is not closed")
        number += reader.line_num
        yield number, cells


def _split_tsv(file: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(file, start=1):
        text = line.rstrip("\r\n")
        yield number, text.split("\t") if text else []


class _JsonReader:
    """Reader of objects, one after another or in one array. An object may take several lines. A string is a row with the column
    STRING_COLUMN."""

    def heads(self, path: Path) -> Iterator[Iterable[str]]:
        return (row for _, row in self._objects(path))

    def rows(self, path: Path, columns: Sequence[str]) -> Iterator[Cells]:
        for line, row in self._objects(path):
            yield line, list(map(row.get, columns))

    def _objects(self, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
        for line, value in _json_values(path):
            if isinstance(value, dict):
                yield line, value
            elif isinstance(value, str):
                yield line, {STRING_COLUMN: value}
            else:
                raise _BrokenTableError(f"line {line}: {type(value).__name__}, not an object; write one {{...}} per line")


def _json_values(path: Path) -> Iterator[tuple[int, Any]]:
    with _open_text(path, None) as file:
        is_first = True
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                values = [] if is_first and line.lstrip().startswith("[") else [json.loads(line)]
            except json.JSONDecodeError as error:
                values = [] if is_first else list(_in_sequence(line, number, error))
            if not values:  # the first value takes several lines
                yield from _in_text(line + file.read(), number)
                return
            yield from ((number, value) for value in values)
            is_first = False


def _in_sequence(line: str, number: int, error: json.JSONDecodeError) -> Iterator[Any]:
    """Yield the JSON values of a line that has several of them. `error`: the error of parsing the line as one value. Raises:
    _BrokenTableError if the line is no JSON."""
    if error.msg != "Extra data":
        raise _BrokenTableError(f"line {number}: no JSON, {error.msg} at column {error.colno}") from error
    yield from (value for _, value in _in_text(line, number))


def _in_text(text: str, line: int) -> Iterator[tuple[int, Any]]:
    """Yield (line, value) for each JSON value in `text`. The values are one after another or in one array. `line`: number of the text's
    first line. Raises: _BrokenTableError if the text is no JSON."""
    decoder = json.JSONDecoder()
    space = re.compile(r"\s*,?\s*")
    at = len(text) - len(text.lstrip())
    is_array = text.startswith("[", at)
    at = space.match(text, at + is_array).end()  # type: ignore[union-attr]  # it matches anything
    counted = 0
    while at < len(text) and not (is_array and text[at] == "]"):
        line, counted = line + text.count("\n", counted, at), at
        try:
            value, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise _BrokenTableError(f"line {line + text.count(chr(10), at, error.pos)}: no JSON, {error.msg}") from error
        yield line, value
        at = space.match(text, at).end()  # type: ignore[union-attr]
    if is_array and text[at:].strip() != "]":
        raise _BrokenTableError("the array's ] is missing" if at >= len(text) else "there is more after the array's ]")


class _ParquetReader:
    """Reader of parquet, in batches. Reads only the requested columns."""

    def heads(self, path: Path) -> Iterator[Iterable[str]]:
        with required("pyarrow.parquet").ParquetFile(path) as file:
            yield file.schema_arrow.names

    def rows(self, path: Path, columns: Sequence[str]) -> Iterator[Cells]:
        with required("pyarrow.parquet").ParquetFile(path) as file:
            there = [column for column in columns if column in file.schema_arrow.names]
            for batch in file.iter_batches(ROWS_PER_BATCH, columns=there):
                cells = {name: batch.column(name).to_pylist() for name in there}
                empty = [None] * batch.num_rows
                yield from ((None, row) for row in zip(*(cells.get(column, empty) for column in columns), strict=True))


_Format = _CellReader | _JsonReader | _ParquetReader
TABLE_FORMATS: dict[str, _Format] = {
    ".csv": _CellReader("", _split_csv),
    ".tsv": _CellReader("\n", _split_tsv),
    ".json": _JsonReader(),
    ".jsonl": _JsonReader(),
    ".parquet": _ParquetReader(),
}
