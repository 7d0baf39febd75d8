"""Where text comes from: `data.path` -> a source that yields (document number, paragraph). Holds no tokens and writes nothing.

Own readers for .txt only; tables, saved data sets and hub names go through the `datasets` library, one row one document.
"""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from recipes.config import TextDataConfig
from recipes.data.text_files import read_paragraphs, split_paragraphs
from recipes.errors import ConfigError, MissingSplit

SAMPLE = Path(__file__).resolve().parents[1] / "samples" / "text"
TEXT_SUFFIXES = (".txt",)
TABLE_BUILDERS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
KNOWN = ".txt, .csv, .tsv, .json, .jsonl (each also with .gz) and .parquet"
ROWS_PER_BATCH = 256


class TextSource(Protocol):
    """A corpus that can be read any number of times, always in the same order."""

    @property
    def name(self) -> str:
        """What the user asked for, as an absolute path or hub name."""

    def paragraphs(self) -> Iterator[tuple[int, str]]:
        """(document number, paragraph), in corpus order."""


@dataclass(frozen=True)
class TextFiles:
    """One .txt or .txt.gz file is one document."""

    name: str
    paths: tuple[Path, ...]

    def paragraphs(self) -> Iterator[tuple[int, str]]:
        """See TextSource."""
        for number, path in enumerate(self.paths):
            for paragraph in read_paragraphs(path):
                yield number, paragraph


@dataclass(frozen=True)
class Rows:
    """One row of a `datasets` data set is one document; empty and missing ones are skipped."""

    name: str
    dataset: Any
    column: str

    def paragraphs(self) -> Iterator[tuple[int, str]]:
        """See TextSource.

        Raises: ConfigError where the column is not text or the file cannot be parsed.
        """
        for number, text in enumerate(self._column()):
            for paragraph in split_paragraphs((text or "").split("\n")):
                yield number, paragraph

    def _column(self) -> Iterator[str | None]:
        known = self.dataset.column_names or []  # a stream may not know its columns yet
        dataset = self.dataset.select_columns([self.column]) if self.column in known else self.dataset
        with table_errors(self.name):
            for batch in dataset.iter(batch_size=ROWS_PER_BATCH):
                yield from self._checked(batch)

    def _checked(self, batch: dict[str, list[Any]]) -> list[str | None]:
        if self.column not in batch:
            raise ConfigError(f"{self.name}: no column {self.column!r}, there are {', '.join(batch)}; --set data.text_column=NAME")
        values = batch[self.column]
        wrong = next((value for value in values if value is not None and not isinstance(value, str)), None)
        if wrong is not None:
            raise ConfigError(f"{self.name}: column {self.column!r} holds {type(wrong).__name__}, not text; --set data.text_column=NAME")
        return values


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


def _kind(path: Path) -> str:
    """The suffix that says what is in the file, without .gz."""
    return Path(path.name.removesuffix(".gz")).suffix.lower()


def _open_folder(folder: Path, column: str) -> TextSource:
    if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
        return _open_saved(folder, column)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "/." not in f"/{path.relative_to(folder)}")
    readable = [path for path in files if _kind(path) in (*TEXT_SUFFIXES, *TABLE_BUILDERS)]
    if not readable:
        kinds = Counter(map(_kind, files)).most_common(5)
        found = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in kinds) or "nothing"
        raise ConfigError(f"{folder}: no text in it, found {found}; known are {KNOWN}")
    return _open_files(folder, readable, column)


def _open_files(name: Path, files: list[Path], column: str) -> TextSource:
    kinds = Counter(map(_kind, files))
    if len(kinds) > 1:
        found = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        raise ConfigError(f"{name}: more than one kind of file ({found}); point --data at a folder with one kind, or at one file")
    kind = next(iter(kinds))
    if kind in TEXT_SUFFIXES:
        return TextFiles(str(name), tuple(files))
    if kind not in TABLE_BUILDERS:
        raise ConfigError(f"{name}: unknown kind of file {kind or '(no suffix)'}; known are {KNOWN}")
    from datasets import load_dataset

    options = {"sep": "\t"} if kind == ".tsv" else {}
    # Streaming reads the files where they lie; without it the whole table would be copied into the cache first.
    with table_errors(str(name)):
        table = load_dataset(TABLE_BUILDERS[kind], data_files=[str(path) for path in files], split="train", streaming=True, **options)
    return Rows(str(name), table, column)


def _open_saved(folder: Path, column: str) -> TextSource:
    from datasets import DatasetDict, load_from_disk

    with table_errors(str(folder)):
        saved = load_from_disk(str(folder))
    if isinstance(saved, DatasetDict):
        if "train" not in saved:
            raise ConfigError(f"{folder}: a data set with the splits {', '.join(saved)} and no train; point --data at one of its folders")
        saved = saved["train"]
    return Rows(str(folder), saved, column)


def _open_hub(path: str, column: str) -> TextSource:
    if _kind(Path(path)) in (*TEXT_SUFFIXES, *TABLE_BUILDERS):
        raise ConfigError(f"--data {path}: no such file or folder")
    return Rows(path, load_hub(path), column)


def load_hub(path: str, split: str = "train") -> Any:
    """A split of the hub's data set `name` or `name:config`, downloaded once; its cache is then read in place.

    Raises: MissingSplit; ConfigError if the hub cannot have that name, or does not give it.
    """
    if not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?(:[\w.-]+)?", path):
        raise ConfigError(f"--data {path}: no such file or folder")
    import datasets
    import httpx

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
    import pyarrow
    from datasets.exceptions import DatasetsError

    try:
        yield
    except (DatasetsError, pyarrow.ArrowException, OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"{name}: cannot be read as a table ({first_line(error)}); mend or remove it") from error


def first_line(error: Exception) -> str:
    """The error's message as far as it fits into one line; its class where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
