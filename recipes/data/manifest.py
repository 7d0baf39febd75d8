"""Reads lists of files: .tsv, .csv and .jsonl with a column of paths, and fairseq's .tsv with the root folder in its first line. A row may
be a segment of its file. Opens none of the files that are listed."""

import math
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from recipes.data.text_files import read_lines
from recipes.data.text_tables import Row, TableFile
from recipes.errors import ConfigError

SUFFIXES = (".tsv", ".csv", ".jsonl")
PATH_COLUMNS = ("path", "file", "audio_filepath")
"""Names of the column of paths that are tried if the list has no column with the name in the recipe. The last one is NeMo's."""
START_COLUMNS = ("offset", "start", "start_time", "start_sec", "start_seconds", "begin", "begin_time", "begin_sec")
END_COLUMNS = ("end", "end_time", "end_sec", "end_seconds", "stop", "stop_time")
LENGTH_COLUMNS = ("duration", "duration_sec", "duration_seconds", "dur")
"""Names that NeMo's, Kaldi's and hub lists use for the start, end and length of a row's segment of its recording, in seconds."""


class Segment(NamedTuple):
    """A part of a recording: its start and its length in seconds. Length None: up to the end of the recording."""

    start: float
    seconds: float | None = None


class FileManifest(NamedTuple):
    """The folder that the paths are relative to, and for each row its path, label and segment."""

    root: str
    paths: list[str]
    labels: list[Any]
    """Label of each row, as it is written. labels.class_name makes a class of it."""
    segments: list[Segment | None]
    columns: list[str]
    """Names of all columns. Empty for fairseq's lists."""
    segment_columns: list[str]
    """The columns that contain the times of the segments."""


def read_manifest(path: Path, *, column: str, label_column: str, column_option: str, has_segments: bool = False) -> FileManifest:
    """Read a list of files: for each row its path, its label (None if there is none) and its segment (None: the whole file). Paths are
    relative to the list's folder, or in fairseq's format to the folder in its first line.

    The paths are in `column`, or if there is no such column in path, file or audio_filepath. `has_segments`: columns with the usual names
    for start, end and length in seconds, such as offset and duration, are the times of segments. If False, they are ignored.
    Raises: ConfigError if the file cannot be parsed, lists nothing, or has no column of paths (`column_option` is the option to change).
    """
    if _is_fairseq(list(islice(read_lines(path), 2))):
        manifest = _read_fairseq(path)
    else:
        manifest = _read_rows(path, (column, *PATH_COLUMNS), label_column, column_option, has_segments)
    if not manifest.paths:
        raise ConfigError(f"{path}: lists no files; give a list with at least one row")
    return manifest


def _is_fairseq(head: list[str]) -> bool:
    """True if `head`, the first two lines of a list of files, is in fairseq's format: `/root/folder`, then `path<TAB>number of samples`."""
    return len(head) == 2 and "\t" not in head[0] and head[1].count("\t") == 1 and head[1].rpartition("\t")[2].strip().isdigit()


def _read_fairseq(path: Path) -> FileManifest:
    lines = read_lines(path)
    root = path.parent / next(lines).strip()
    if not root.is_dir():
        raise ConfigError(f"{path}: its first line names the folder {root}, which is not there; correct that line")
    paths = [line.rpartition("\t")[0] for line in lines if line.strip()]
    return FileManifest(str(root), paths, [None] * len(paths), [None] * len(paths), [], [])


def _read_rows(path: Path, candidates: tuple[str, ...], label_column: str, column_option: str, has_segments: bool) -> FileManifest:
    table = TableFile(path)
    columns = table.columns()
    chosen = next((name for name in candidates if name in columns), None)
    if chosen is None:
        found = f"no column {candidates[0]!r}, there are {', '.join(columns)}"
        raise ConfigError(f"{path}: {found}; {column_option}NAME of the one with the paths")
    times = [next((name for name in names if name in columns), "") for names in (START_COLUMNS, END_COLUMNS, LENGTH_COLUMNS)]
    has_segments = has_segments and bool(times[0])
    manifest = FileManifest(str(path.parent), [], [], [], columns, [name for name in times if name and has_segments])
    there = [name for name in times if name]  # pandas writes its index as a column that is called ""
    for row in table.rows((chosen, label_column, *there)):
        value, label, *cells = row.cells
        if not isinstance(value, str) or not value:
            raise ConfigError(f"{path} {row.place}: no path in column {chosen!r}; remove the row or write its path")
        manifest.paths.append(value)
        manifest.labels.append(label)
        given = dict(zip(there, cells, strict=True))
        manifest.segments.append(_segment(path, row, [(name, given.get(name)) for name in times]) if has_segments else None)
    return manifest


def _segment(path: Path, row: Row, cells: list[tuple[str, Any]]) -> Segment | None:
    """Return the segment of a row of the list `path`, or None if the row has no start time. `cells`: (column, value) of its start, its end
    and its length. If the row has an end and a length, only the end is used, because the length may be that of the whole recording. Raises:
    ConfigError if a value is not a number."""
    start, end, length = (_seconds(path, row, name, value) for name, value in cells)
    if start is None:
        return None
    return Segment(start, length if end is None else end - start)


def _seconds(path: Path, row: Row, column: str, value: Any) -> float | None:
    try:
        seconds = None if value is None else float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if seconds is not None and not math.isfinite(seconds):
        raise ConfigError(f"{path} {row.place}: column {column!r} holds {value!r}, no time in seconds; correct it or rename the column")
    return seconds
