"""Where text comes from: `data.path` -> a source that yields (document number, paragraph). Holds no tokens and writes nothing.

Files have readers of their own (text_files.py, text_tables.py); saved data sets and hub names go through the `datasets` library. One row
is one document.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Protocol

from recipes.config import TextDataConfig
from recipes.data.libraries import required
from recipes.data.text_files import read_paragraphs, split_paragraphs
from recipes.data.text_tables import ROWS_PER_BATCH, TABLE_FORMATS, TableFile, kind_of
from recipes.errors import ConfigError, MissingSplit

SAMPLE = Path(__file__).resolve().parents[1] / "samples" / "text"
TEXT_SUFFIXES = (".txt",)
LONE_SURROGATE = re.compile("[\ud800-\udfff]")
KNOWN = ".txt, .csv, .tsv, .json, .jsonl (each also with .gz) and .parquet"


class TextSource(Protocol):
    """A corpus that can be read any number of times, always in the same order."""

    @property
    def name(self) -> str:
        """What the user asked for, as an absolute path or hub name."""

    @property
    def has_columns(self) -> bool:
        """Whether data.text_column says where the text is."""

    def paragraphs(self) -> Iterator[tuple[int, str]]:
        """(document number, paragraph), in corpus order."""


@dataclass(frozen=True)
class TextFiles:
    """One .txt or .txt.gz file is one document."""

    name: str
    paths: tuple[Path, ...]
    has_columns: ClassVar[bool] = False

    def paragraphs(self) -> Iterator[tuple[int, str]]:
        """See TextSource."""
        for number, path in enumerate(self.paths):
            for paragraph in read_paragraphs(path):
                yield number, paragraph


@dataclass(frozen=True)
class TableFiles:
    """One row of a table is one document; empty and missing ones are skipped."""

    name: str
    paths: tuple[Path, ...]
    column: str
    has_columns: ClassVar[bool] = True

    def paragraphs(self) -> Iterator[tuple[int, str]]:
        """See TextSource.

        Raises: ConfigError naming the file whose column is not there, and the row that is not text or cannot be read.
        """
        return _paragraphs(chain.from_iterable(map(self._texts, self.paths)))

    def check_column(self, path: Path) -> None:
        """Raises: ConfigError unless the column is there, or the file has no rows of which a column could be known."""
        columns = TableFile(path).columns()
        if columns and self.column not in columns:
            raise ConfigError(_no_column(str(path), self.column, columns))

    def _texts(self, path: Path) -> Iterator[str | None]:
        self.check_column(path)
        for row in TableFile(path).rows([self.column]):
            text = row.cells[0]
            if fault := _fault(text):
                raise ConfigError(f"{path} {row.place}: column {self.column!r} holds {fault}")
            yield text


@dataclass(frozen=True)
class Rows:
    """One row of a `datasets` data set is one document; empty and missing ones are skipped."""

    name: str
    dataset: Any
    column: str
    has_columns: ClassVar[bool] = True

    def paragraphs(self) -> Iterator[tuple[int, str]]:
        """See TextSource.

        Raises: ConfigError where the column is not there or not text, or the data cannot be read.
        """
        return _paragraphs(self._texts())

    def _texts(self) -> Iterator[str | None]:
        if self.column not in self.dataset.column_names:
            raise ConfigError(_no_column(self.name, self.column, self.dataset.column_names))
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


def _no_column(name: str, column: str, columns: list[str]) -> str:
    return f"{name}: no column {column!r}, there are {', '.join(columns)}; --set data.text_column=NAME"


def _fault(value: Any) -> str | None:
    """What is wrong with a text, and what to do."""
    if value is None or (isinstance(value, str) and (value.isascii() or not LONE_SURROGATE.search(value))):
        return None
    if isinstance(value, str):
        return "half a character (a lone surrogate, \\uD800 to \\uDFFF); fix or remove the row"
    return f"{type(value).__name__}, not text; --set data.text_column=NAME"


def open_source(data: TextDataConfig) -> TextSource:
    """The corpus that `data.path` names.

    Raises: ConfigError if it is not there, or holds nothing that can be read.
    """
    path = SAMPLE if data.path is None else Path(data.path).expanduser()
    if path.is_dir():
        return _open_folder(path.resolve(), data.text_column)
    if path.is_file():
        return _open_files(path.resolve(), [path.resolve()], data.text_column)
    return _open_hub(str(data.path), data.text_column)


def _open_folder(folder: Path, column: str) -> TextSource:
    if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
        return _open_saved(folder, column)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "/." not in f"/{path.relative_to(folder)}")
    readable = [path for path in files if kind_of(path) in (*TEXT_SUFFIXES, *TABLE_FORMATS)]
    if not readable:
        kinds = Counter(map(kind_of, files)).most_common(5)
        found = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in kinds) or "nothing"
        raise ConfigError(f"{folder}: no text in it, found {found}; known are {KNOWN}")
    return _open_files(folder, readable, column)


def _open_files(name: Path, files: list[Path], column: str) -> TextSource:
    kinds = Counter(map(kind_of, files))
    if len(kinds) > 1:
        found = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        raise ConfigError(f"{name}: more than one kind of file ({found}); point --data at a folder with one kind, or at one file")
    kind = next(iter(kinds))
    if kind in TEXT_SUFFIXES:
        return TextFiles(str(name), tuple(files))
    if kind not in TABLE_FORMATS:
        raise ConfigError(f"{name}: unknown kind of file {kind or '(no suffix)'}; known are {KNOWN}")
    source = TableFiles(str(name), tuple(files), column)
    source.check_column(files[0])  # a wrong data.text_column is seen by a dry run too
    return source


def _open_saved(folder: Path, column: str) -> TextSource:
    datasets = required("datasets")
    with table_errors(str(folder)):
        saved = datasets.load_from_disk(str(folder))
    if isinstance(saved, datasets.DatasetDict):
        if "train" not in saved:
            raise ConfigError(f"{folder}: a data set with the splits {', '.join(saved)} and no train; point --data at one of its folders")
        saved = saved["train"]
    return Rows(str(folder), saved, column)


def _open_hub(path: str, column: str) -> TextSource:
    if kind_of(Path(path)) in (*TEXT_SUFFIXES, *TABLE_FORMATS):
        raise ConfigError(f"--data {path}: no such file or folder")
    return Rows(path, load_hub(path), column)


def load_hub(path: str, split: str = "train") -> Any:
    """A split of the hub's data set `name` or `name:config`, downloaded once; its cache is then read in place.

    Raises: MissingSplit; ConfigError if the hub cannot have that name, or does not give it.
    """
    if not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?(:[\w.-]+)?", path):
        raise ConfigError(f"--data {path}: no such file or folder")
    datasets = required("datasets")
    import httpx  # which datasets needs

    name, _, config = path.partition(":")
    try:
        return datasets.load_dataset(name, config or None, split=split)
    except (OSError, ValueError, httpx.HTTPError, datasets.exceptions.DatasetsError) as error:
        if str(error).startswith("Unknown split"):
            raise MissingSplit(f"--data {path}: {first_line(error)}; point --data at data that has the split {split!r}") from error
        raise ConfigError(
            f"--data {path}: no such file or folder, and the hub does not give it ({first_line(error)}); check the name and the network"
        ) from error


@contextmanager
def table_errors(name: str) -> Iterator[None]:
    """What `datasets` raises at a damaged file, as a ConfigError naming the file or folder."""
    datasets, pyarrow = required("datasets"), required("pyarrow")
    try:
        yield
    except (datasets.exceptions.DatasetsError, pyarrow.ArrowException, OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"{name}: cannot be read as a table ({first_line(error)}); fix or remove it") from error


def first_line(error: Exception) -> str:
    """The error's message as far as it fits into one line; its class where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
