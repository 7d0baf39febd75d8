"""Sources of text: `data.path` -> an object that yields (document number, paragraph). Does not tokenize and writes nothing.

Files are read by text_files.py and text_tables.py, saved data sets and those of the hub by datasets_library.py. One row is one document.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Protocol

from recipes.data.datasets_library import describe_rows, files_of, is_saved, load_hub, load_saved, table_errors
from recipes.data.folder import count_suffixes, list_folder, resolve_data_path
from recipes.data.splits import check_file, choose_files, find_split_name
from recipes.data.text_files import read_paragraphs, split_paragraphs
from recipes.data.text_tables import ROWS_PER_BATCH, TABLE_FORMATS, TableFile, kind_of
from recipes.data_config import TextDataConfig
from recipes.errors import ConfigError

SAMPLE = Path(__file__).resolve().parents[1] / "samples" / "text"
TEXT_SUFFIXES = (".txt",)
LONE_SURROGATE = re.compile("[\ud800-\udfff]")
NO_TEXT = ("readme", "license", "licence", "copying", "notice", "changelog")
"""Stems of .txt files that describe a data set and are not part of its text."""
NO_TEXT_WITH_PREFIX = re.compile(r"[-_. ](readme|license|licence)$")
"""Ends of stems of such files, as in ORIGINAL-README."""
COLUMN_OPTION = "--set data.text_column="
"""The option that names a table's column, up to the name, for messages."""
KNOWN = ".txt, .csv, .tsv, .json, .jsonl (each also with .gz) and .parquet"


class TextSource(Protocol):
    """A corpus that can be read any number of times, always in the same order."""

    @property
    def name(self) -> str:
        """The data that the user named, as an absolute path or hub name."""

    @property
    def note(self) -> str:
        """One line that says what is read and what is left out. "" if there was nothing to choose."""

    @property
    def paths(self) -> Sequence[Path]:
        """The files from which the text is read. Empty for a data set of the hub, which is in a cache."""

    @property
    def has_columns(self) -> bool:
        """True if the text is in a table, in the column data.text_column."""

    def paragraphs(self) -> Iterator[tuple[int, str]]:
        """Yield (document number, paragraph) in corpus order."""


@dataclass(frozen=True)
class TextFiles:
    """Text files (.txt, .txt.gz). One file is one document."""

    name: str
    paths: tuple[Path, ...]
    note: str = ""
    has_columns: ClassVar[bool] = False

    def paragraphs(self) -> Iterator[tuple[int, str]]:
        """Yield (number of the file, paragraph) in corpus order. Raises: ConfigError if a file cannot be read or is not UTF-8 text."""
        for number, path in enumerate(self.paths):
            for paragraph in read_paragraphs(path):
                yield number, paragraph


@dataclass(frozen=True)
class TableFiles:
    """Tables in files: csv, tsv, json, jsonl or parquet. One row is one document. Rows with empty or missing text are skipped."""

    name: str
    paths: tuple[Path, ...]
    column: str
    note: str = ""
    column_option: str = COLUMN_OPTION
    has_columns: ClassVar[bool] = True

    def paragraphs(self) -> Iterator[tuple[int, str]]:
        """Yield (number of the row, paragraph) in corpus order. Rows are counted over all files.

        Raises: ConfigError with the file that lacks the column, or with the row that cannot be read or whose cell is not text.
        """
        return _paragraphs(chain.from_iterable(map(self._texts, self.paths)))

    def check_column(self, path: Path) -> None:
        """Check that the file has the column. A file without rows may have no columns. Raises: ConfigError if the column is missing."""
        columns = TableFile(path).columns()
        if columns and self.column not in columns:
            raise ConfigError(_no_column(str(path), self.column, columns, self.column_option))

    def _texts(self, path: Path) -> Iterator[str | None]:
        self.check_column(path)
        for row in TableFile(path).rows([self.column]):
            text = row.cells[0]
            if fault := _fault(text):
                raise ConfigError(f"{path} {row.place}: column {self.column!r} holds {fault}")
            yield text


@dataclass(frozen=True)
class Rows:
    """A data set of the `datasets` library. One row is one document. Rows with empty or missing text are skipped."""

    name: str
    dataset: Any
    column: str
    note: str = ""
    paths: Sequence[Path] = ()
    column_option: str = COLUMN_OPTION
    has_columns: ClassVar[bool] = True

    def paragraphs(self) -> Iterator[tuple[int, str]]:
        """Yield (number of the row, paragraph) in corpus order.

        Raises: ConfigError if the column is missing or is not text, or if the data cannot be read.
        """
        return _paragraphs(self._texts())

    def check_column(self) -> None:
        """Check that the data set has the column. Raises: ConfigError if it is missing."""
        if self.column not in self.dataset.column_names:
            raise ConfigError(_no_column(self.name, self.column, self.dataset.column_names, self.column_option))

    def _texts(self) -> Iterator[str | None]:
        self.check_column()
        with table_errors(self.name):
            batches = self.dataset.select_columns([self.column]).iter(batch_size=ROWS_PER_BATCH)
            for number, text in enumerate(chain.from_iterable(batch[self.column] for batch in batches), start=1):
                if fault := _fault(text):
                    raise ConfigError(f"{self.name} row {number}: column {self.column!r} holds {fault}")
                yield text


def _paragraphs(texts: Iterable[str | None]) -> Iterator[tuple[int, str]]:
    for number, text in enumerate(texts):
        if text:
            for paragraph in split_paragraphs(text.split("\n")):
                yield number, paragraph


def _no_column(name: str, column: str, columns: list[str], option: str) -> str:
    return f"{name}: no column {column!r}, there are {', '.join(columns)}; {option}NAME"


def _fault(value: Any) -> str | None:
    """Return what is wrong with the value of a text cell, and the remedy. None if it is valid text or empty."""
    if value is None or (isinstance(value, str) and (value.isascii() or not LONE_SURROGATE.search(value))):
        return None
    if isinstance(value, str):
        return "half a character (a lone surrogate, \\uD800 to \\uDFFF); fix or remove the row"
    return f"{type(value).__name__}, not text; {COLUMN_OPTION}NAME"


def open_source(data: TextDataConfig, column_option: str = COLUMN_OPTION) -> TextSource:
    """Return the corpus that data.path names (None: the shipped sample), or the part of it that data.split names. `column_option`: the
    option that chooses the column, for messages.

    Raises: ConfigError if it does not exist, contains nothing that can be read, or if it is not clear which part is training data;
    MissingSplit if it has no such part.
    """
    place = resolve_data_path(SAMPLE if data.path is None else data.path)
    if place is None:
        return _open_hub(str(data.path), data, column_option)
    if place.is_dir():
        return _open_folder(place, data, column_option)
    check_file(place, data.split)
    return _open_files(place, [place], data.text_column, column_option)


def _open_folder(folder: Path, data: TextDataConfig, column_option: str) -> TextSource:
    if is_saved(folder):
        dataset, note = load_saved(folder, data.split)
        return Rows(str(folder), dataset, data.text_column, note, files_of(dataset), column_option)
    listing = list_folder(folder, find_split_name)
    known = [path for path in listing.files if _is_text(path)]
    others = [path for path in listing.files if not _is_text(path)]
    if not known:
        found = "; ".join([count_suffixes(others), *listing.skipped[:1]])
        raise ConfigError(f"{folder}: no text in it, found {found}; known are {KNOWN}; a README or licence does not count")
    choice = choose_files(listing, known, data.split, is_item=lambda path: False)
    files = sorted(folder / path for path in choice.paths)
    return replace(_open_files(folder, files, data.text_column, column_option), note=choice.describe(others))


def _is_text(path: str) -> bool:
    if kind_of(path) not in TEXT_SUFFIXES:
        return kind_of(path) in TABLE_FORMATS
    name = os.path.basename(path).lower()
    stem = name.removesuffix(".gz").removesuffix(kind_of(path))
    return name.partition(".")[0] not in NO_TEXT and not NO_TEXT_WITH_PREFIX.search(stem)


def _open_files(name: Path, files: list[Path], column: str, column_option: str) -> TextFiles | TableFiles:
    kinds = Counter(map(kind_of, files))
    if len(kinds) > 1:
        found = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        raise ConfigError(f"{name}: more than one kind of file ({found}); point --data at a folder with one kind, or at one file")
    kind = next(iter(kinds))
    if kind in TEXT_SUFFIXES:
        return TextFiles(str(name), tuple(files))
    if kind not in TABLE_FORMATS:
        raise ConfigError(f"{name}: unknown kind of file {kind or '(no suffix)'}; known are {KNOWN}")
    source = TableFiles(str(name), tuple(files), column, column_option=column_option)
    source.check_column(files[0])  # so that a dry run finds a wrong data.text_column too
    return source


def _open_hub(path: str, data: TextDataConfig, column_option: str) -> TextSource:
    if kind_of(Path(path)) in (*TEXT_SUFFIXES, *TABLE_FORMATS):
        raise ConfigError(f"--data {path}: no such file or folder")
    asked = data.split or "train"
    dataset = load_hub(path, asked)
    return Rows(path, dataset, data.text_column, describe_rows(asked, dataset), column_option=column_option)
