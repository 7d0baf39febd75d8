"""The eight tasks of GLUE as they are published: file names, columns and classes of GLUE's own files, and the names on the hub. Tokenizes
nothing; rates and metrics are in recipes/finetune/text_tasks.py.

Columns and splits have the hub's names (nyu-mll/glue) wherever the data come from. GLUE's files are tables with tabs in which quotes are
plain characters. Source: https://gluebenchmark.com, and the loading script glue.py of `datasets`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipes.data.folder import resolve_data_path
from recipes.data.labelled_text import CHOOSE_COLUMNS, TableSplit, load_table
from recipes.data.splits import split_of
from recipes.errors import ConfigError, MissingSplit

HUB = "nyu-mll/glue"
HUB_NAMES = ("glue", HUB)
LABEL = "label"
NO_LABEL = -1
"""Label of every row of a test split on the hub."""
PLAIN_FILES = {"train": ("train.tsv",), "valid": ("dev.tsv",), "test": ("test.tsv",)}


@dataclass(frozen=True)
class GlueTask:
    """How one task of GLUE is published."""

    folder: str
    """Folder of its files in a copy of all tasks."""
    text_columns: tuple[str, ...]
    labels: tuple[str, ...] = ()
    """Classes in the order of their numbers on the hub. (): the label is a number."""
    in_files: Mapping[str, str] = field(default_factory=dict)
    """Column on the hub -> its name in the header of the files, if they differ."""
    files: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: PLAIN_FILES)
    """Split -> names of its file; the first that is there is read."""
    headless: tuple[str, ...] = ()
    """Columns of a labelled file, if it has no header."""
    valid_split: str = "validation"
    test_splits: tuple[str, ...] = ("test",)


MNLI_FILES = {
    "train": ("train.tsv",),
    "validation_matched": ("dev_matched.tsv",),
    "validation_mismatched": ("dev_mismatched.tsv",),
    "test_matched": ("test_matched.tsv",),
    "test_mismatched": ("test_mismatched.tsv",),
}
# msr_paraphrase_train.txt has the rows of train.tsv and dev.tsv: without dev.tsv, a part of it is held out.
MRPC_FILES = {"train": ("train.tsv", "msr_paraphrase_train.txt"), "valid": ("dev.tsv",), "test": ("test.tsv", "msr_paraphrase_test.txt")}
PAIR = ("sentence1", "sentence2")

GLUE: Mapping[str, GlueTask] = {
    "sst2": GlueTask("SST-2", ("sentence",), ("negative", "positive")),
    "cola": GlueTask("CoLA", ("sentence",), ("unacceptable", "acceptable"), headless=("source", LABEL, "mark", "sentence")),
    "mrpc": GlueTask(
        "MRPC",
        PAIR,
        ("not_equivalent", "equivalent"),
        {"sentence1": "#1 String", "sentence2": "#2 String", LABEL: "Quality"},
        MRPC_FILES,
    ),
    "stsb": GlueTask("STS-B", PAIR, (), {LABEL: "score"}),
    "qqp": GlueTask("QQP", ("question1", "question2"), ("not_duplicate", "duplicate"), {LABEL: "is_duplicate"}),
    "mnli": GlueTask(
        "MNLI",
        ("premise", "hypothesis"),
        ("entailment", "neutral", "contradiction"),
        {"premise": "sentence1", "hypothesis": "sentence2", LABEL: "gold_label"},
        MNLI_FILES,
        valid_split="validation_matched",
        test_splits=("validation_mismatched", "test_matched", "test_mismatched"),
    ),
    "qnli": GlueTask("QNLI", ("question", "sentence"), ("entailment", "not_entailment")),
    "rte": GlueTask("RTE", PAIR, ("entailment", "not_entailment")),
}


def load_glue(path: str | None, task: str, split: str, text_columns: Sequence[str], label_column: str) -> TableSplit:
    """Load columns of one split of a task of GLUE. `path`: `glue` for the hub; a copy of GLUE's files, of all tasks or of this one; or any
    other data that load_table() reads. Labels -1 become None, and numbers of classes become their names.

    Raises: ConfigError if there are no such data or columns; MissingSplit if there is no such split.
    """
    published = GLUE[task]
    folder = resolve_data_path(path) if path is not None else None
    if folder is None and path in HUB_NAMES:
        path = f"{HUB}:{task}"
    place = next(_places(folder, task), None) if folder else None
    if place is not None and _names_of(published, "train", place):
        return _load_published(place, published, split, text_columns, label_column)
    table = load_table(str(place) if place else path, split, text_columns, label_column)
    if label_column in table.cells:
        table.cells[label_column] = [_label(cell) for cell in table.cells[label_column]]
    return table._replace(class_names=_class_names(published, label_column) | table.class_names)


def _places(folder: Path, task: str) -> Iterator[Path]:
    """Yield the folders that may hold the task's files, the most specific first."""
    if folder.is_dir():
        yield from (folder / name for name in (GLUE[task].folder, task) if (folder / name).is_dir())
        yield folder


def _class_names(published: GlueTask, label_column: str) -> dict[str, Sequence[str]]:
    return {label_column: published.labels} if published.labels else {}


def _label(cell: Any) -> Any:
    """Return a cell of the label column: a whole number as int, which class names are found by; None for NO_LABEL."""
    number = int(cell) if isinstance(cell, str) and cell.strip().lstrip("-").isdecimal() else cell
    return None if number == NO_LABEL else number


def _names_of(published: GlueTask, split: str, place: Path) -> list[Path]:
    """Return the files of a split that are there. Other names, such as train.csv, are no files of GLUE."""
    names = published.files.get(split, published.files.get(split_of(split), ()))
    return [place / name for name in names if (place / name).is_file()]


def _load_published(place: Path, published: GlueTask, split: str, text_columns: Sequence[str], label_column: str) -> TableSplit:
    found = _names_of(published, split, place)
    if not found:
        there = ", ".join(sorted(path.name for path in place.iterdir() if path.suffix in (".tsv", ".txt")))
        raise MissingSplit(f"{place}: no file of split {split!r} of GLUE, there are {there}; add it")
    file = found[0]
    lines = _read_lines(file)
    header, rows = (published.headless, lines) if _is_headless(lines, published) else (lines[0], lines[1:])
    columns = [next((ours for ours, theirs in published.in_files.items() if theirs == name), name) for name in header]
    for name in text_columns:
        if name not in columns:
            raise ConfigError(f"{file}: no column {name!r}, there are {', '.join(columns)}; {CHOOSE_COLUMNS}")
    wanted = [name for name in (*text_columns, label_column) if name in columns]
    table = TableSplit({name: [] for name in wanted}, list(columns), _class_names(published, label_column))
    for cells in rows:
        is_whole = len(cells) == len(header)  # a broken row has no content; the preparation counts it
        for name in wanted:
            cell = (cells[columns.index(name)] or None) if is_whole else None
            table.cells[name].append(_label(cell) if name == label_column else cell)
    return table


def _is_headless(lines: Sequence[Sequence[str]], published: GlueTask) -> bool:
    return len(lines[0]) == len(published.headless) and LABEL not in lines[0]


def _read_lines(file: Path) -> list[list[str]]:
    try:
        text = file.read_bytes().decode("utf-8-sig")  # MRPC's files begin with a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read as a table ({error}); fix or remove it") from None
    lines = [line.rstrip("\r").split("\t") for line in text.split("\n") if line.strip()]
    if not lines:
        raise ConfigError(f"{file}: cannot be read as a table (empty file); fix or remove it")
    return lines
