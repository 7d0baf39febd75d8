"""Where text comes from: `data.path` -> a source that yields (document number, paragraph). Holds no tokens and writes nothing.

Own readers for .txt only; tables, saved data sets and hub names go through the `datasets` library, one row one document.
"""

import importlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from recipes.config import TextDataConfig
from recipes.data.folder import count_suffixes, find_place, list_folder
from recipes.data.splits import ALL, check_file, choose_files, choose_names
from recipes.data.text_files import read_paragraphs, split_paragraphs
from recipes.errors import ConfigError

SAMPLE = Path(__file__).resolve().parents[1] / "samples" / "text"
TEXT_SUFFIXES = (".txt",)
TABLE_BUILDERS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
KNOWN = ".txt, .csv, .tsv, .json, .jsonl (each also with .gz) and .parquet"
NO_TEXT = ("readme", "license", "licence", "copying", "notice", "changelog")
"""Stems of .txt files that tell of a data set and are none."""
ROWS_PER_BATCH = 256


class TextSource(Protocol):
    """A corpus that can be read any number of times, always in the same order."""

    @property
    def name(self) -> str:
        """What the user asked for, as an absolute path or hub name."""

    @property
    def note(self) -> str:
        """What of it is read and what is left out, as a line; "" where there is nothing to choose."""

    def paragraphs(self) -> Iterator[tuple[int, str]]:
        """(document number, paragraph), in corpus order."""


@dataclass(frozen=True)
class TextFiles:
    """One .txt or .txt.gz file is one document."""

    name: str
    paths: tuple[Path, ...]
    note: str = ""

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
    note: str = ""

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
    """The corpus that `data.path` names, or that part of it that data.split does.

    Raises: ConfigError if it is not there, holds nothing that can be read, or leaves open what of it is training data.
    """
    place = find_place(SAMPLE if data.path is None else data.path)
    if place is None:
        return _open_hub(str(data.path), data)
    if place.is_dir():
        return _open_folder(place, data)
    check_file(place, data.split)
    return _open_files(place, [place], data.text_column)


def kind_of(path: str | Path) -> str:
    """The suffix that says what is in the file, without .gz."""
    return Path(Path(path).name.removesuffix(".gz")).suffix.lower()


def _open_folder(folder: Path, data: TextDataConfig) -> TextSource:
    if is_saved(folder):
        dataset, note = load_saved(folder, data.split)
        return Rows(str(folder), dataset, data.text_column, note)
    listing = list_folder(folder)
    known = [path for path in listing.files if _is_text(path)]
    others = [path for path in listing.files if not _is_text(path)]
    if not known:
        found = "; ".join([count_suffixes(others), *listing.passed_over[:1]])
        raise ConfigError(f"{folder}: no text in it, found {found}; known are {KNOWN}; a README or licence does not count")
    choice = choose_files(listing, known, data.split, is_item=lambda path: False)
    files = sorted(folder / path for path in choice.paths)
    return replace(_open_files(folder, files, data.text_column), note=choice.say(others))


def _is_text(path: str) -> bool:
    is_about = os.path.basename(path).partition(".")[0].lower() in NO_TEXT and kind_of(path) in TEXT_SUFFIXES
    return kind_of(path) in (*TEXT_SUFFIXES, *TABLE_BUILDERS) and not is_about


def _open_files(name: Path, files: list[Path], column: str) -> TextFiles | Rows:
    kinds = Counter(map(kind_of, files))
    if len(kinds) > 1:
        found = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        raise ConfigError(f"{name}: more than one kind of file ({found}); point --data at a folder with one kind, or at one file")
    kind = next(iter(kinds))
    if kind in TEXT_SUFFIXES:
        return TextFiles(str(name), tuple(files))
    if kind not in TABLE_BUILDERS:
        raise ConfigError(f"{name}: unknown kind of file {kind or '(no suffix)'}; known are {KNOWN}")
    with table_errors(str(name)):
        # Where they lie; else the whole table would be copied into the cache first.
        table = table_builder(files).as_streaming_dataset(split="train")
    return Rows(str(name), table, column)


def table_builder(files: Sequence[Path]) -> Any:
    """What reads these files of one kind, one after another, as the split train. `datasets` is given the very files: where it looks for
    them itself, it takes names for patterns and misses what lies behind links. Raises: OSError."""
    from datasets.data_files import DataFilesDict, DataFilesList

    kind = kind_of(files[0])
    name = TABLE_BUILDERS[kind]
    builder = getattr(importlib.import_module(f"datasets.packaged_modules.{name}.{name}"), name.capitalize())
    versions = [(str(status.st_mtime_ns), str(status.st_size)) for status in map(os.stat, files)]
    found = DataFilesDict(train=DataFilesList([str(file) for file in files], versions))
    return builder(data_files=found, **({"sep": "\t"} if kind == ".tsv" else {}))


def _open_hub(path: str, data: TextDataConfig) -> TextSource:
    if kind_of(path) in (*TEXT_SUFFIXES, *TABLE_BUILDERS):
        raise ConfigError(f"--data {path}: no such file or folder")
    asked = data.split or "train"
    dataset = load_hub(path, asked)
    return Rows(path, dataset, data.text_column, say_rows(asked, dataset))


def is_saved(folder: Path) -> bool:
    """Whether `datasets` has saved a data set as this folder."""
    return any(os.path.exists(folder / name) for name in ("dataset_dict.json", "state.json"))


def load_saved(folder: Path, split: str | None) -> tuple[Any, str]:
    """What save_to_disk has written, or those of its splits that are wanted (splits.choose_names); and the line that says so.

    Raises: ConfigError; MissingSplit.
    """
    from datasets import DatasetDict, concatenate_datasets, load_from_disk

    with table_errors(str(folder)):
        saved = load_from_disk(str(folder))
    sizes = {name: len(rows) for name, rows in saved.items()} if isinstance(saved, DatasetDict) else {"train": len(saved)}
    found = choose_names(str(folder), list(sizes), split)
    if not isinstance(saved, DatasetDict):
        return saved, ""
    with table_errors(str(folder)):
        whole = saved[found[0]] if len(found) == 1 else concatenate_datasets([saved[name] for name in found])
    return whole, _say_sizes(found, sizes)


def say_rows(split: str, dataset: Any) -> str:
    """The line that says what of a hub's data set is read, as far as it tells."""
    known = getattr(getattr(dataset, "info", None), "splits", None) or {}
    taken = list(known) if split == ALL else [split] * (split in known)
    return _say_sizes(taken, {name: info.num_examples for name, info in known.items()})


def _say_sizes(taken: list[str], sizes: dict[str, int]) -> str:
    left = ", ".join(f"{size:,} of {name}" for name, size in sizes.items() if name not in taken)
    return f"{', '.join(taken)}: {sum(sizes[name] for name in taken):,} rows" + (f"; left out: {left}" if left else "") if taken else ""


def load_hub(path: str, split: str = "train") -> Any:
    """A split of the hub's data set `name` or `name:config`, downloaded once; its cache is then read in place. `split` is a name of the
    hub's (`train[:1%]` too), or one that splits.choose_names knows.

    Raises: ConfigError if the hub cannot have that name, or does not give it; MissingSplit.
    """
    if not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?(:[\w.-]+)?", path):
        raise ConfigError(f"--data {path}: no such file or folder")
    import datasets
    import httpx

    name, _, config = path.partition(":")
    try:
        try:
            return datasets.load_dataset(name, config or None, split=split)
        except ValueError as error:
            if "Unknown split" not in str(error):
                raise
        known = datasets.load_dataset(name, config or None)
        return datasets.concatenate_datasets([known[one] for one in choose_names(path, list(known), split)])
    except (OSError, ValueError, httpx.HTTPError, datasets.exceptions.DatasetsError) as error:
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
