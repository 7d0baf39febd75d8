"""Lists of files: .tsv, .csv and .jsonl with a column of paths, and fairseq's .tsv with the root folder in its first line. Opens none
of the files that are listed."""

import csv
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from recipes.errors import ConfigError

SUFFIXES = (".tsv", ".csv", ".jsonl")
PATH_COLUMNS = ("path", "file")
"""Tried after the column that the recipe names."""


class FileManifest(NamedTuple):
    """The folder that the paths are relative to, the paths in the order of the rows, and the label of each."""

    root: str
    paths: list[str]
    labels: list[str | None]
    columns: tuple[str, ...] = ()


def read_manifest(path: Path, *, column: str, label_column: str, column_option: str) -> FileManifest:
    """Paths are relative to the manifest's folder, in fairseq's to the folder of its first line.

    Raises: ConfigError if the file cannot be parsed, lists nothing, or has no column of paths (`column_option` is the setting to change).
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            head = [line.rstrip("\r\n") for line in islice(file, 2)]
            file.seek(0)
            manifest = _read_fairseq(path, file) if _is_fairseq(head) else _read_rows(path, file, column, label_column, column_option)
    except (OSError, ValueError, csv.Error) as error:
        raise ConfigError(f"{path}: cannot be read as a list of files ({error}); mend or remove it") from error
    if not manifest.paths:
        raise ConfigError(f"{path}: lists no files; give a list with at least one row")
    return manifest


def _is_fairseq(head: list[str]) -> bool:
    """`/root/folder` and then `path<TAB>number of samples`."""
    return len(head) == 2 and "\t" not in head[0] and head[1].count("\t") == 1 and head[1].rpartition("\t")[2].isdigit()


def _read_fairseq(path: Path, lines: Iterator[str]) -> FileManifest:
    root = path.parent / next(lines).strip()
    if not root.is_dir():
        raise ConfigError(f"{path}: its first line names the folder {root}, which is not there; correct that line")
    paths = [line.rpartition("\t")[0] for line in lines if line.strip()]
    return FileManifest(str(root), paths, [None] * len(paths))


def _read_rows(path: Path, lines: Iterator[str], column: str, label_column: str, column_option: str) -> FileManifest:
    paths: list[str] = []
    labels: list[str | None] = []
    chosen: str | None = None
    columns: dict[str, None] = {}
    for number, row in _parse(path, lines):
        chosen = chosen or next((name for name in (column, *PATH_COLUMNS) if name in row), None)
        if chosen is None:
            names = ", ".join(str(name) for name in row)
            raise ConfigError(f"{path}: no column {column!r}, there are {names}; --set {column_option}=NAME of the one with the paths")
        columns |= dict.fromkeys(row)
        value, label = row.get(chosen), row.get(label_column)
        if not isinstance(value, str) or not value:
            raise ConfigError(f"{path} line {number}: no path in column {chosen!r}; remove the row or write its path")
        paths.append(value)
        labels.append(None if label is None else str(label))
    return FileManifest(str(path.parent), paths, labels, tuple(map(str, columns)))


def _parse(path: Path, lines: Iterator[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number of its last line, row) for each row."""
    if path.suffix.lower() == ".jsonl":
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, _parse_object(path, number, line)
        return
    # Tab-separated lists are written without quoting (Common Voice), so a quote there is a character like any other.
    is_tsv = path.suffix.lower() == ".tsv"
    reader = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE) if is_tsv else csv.DictReader(lines)
    for row in reader:
        yield reader.line_num, row


def _parse_object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{path} line {number}: no JSON ({error}); mend or remove the line") from error
    if not isinstance(row, dict):
        raise ConfigError(f"{path} line {number}: {type(row).__name__}, not an object; write one {{...}} per line")
    return row
