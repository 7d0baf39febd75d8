"""The prepared folder of labelled data of any modality: which samples each split has, and their targets. It is written completely or not at
all. The contents of the samples stand in files of the modality, or stay where they are.

    prepared.json      what is in the folder (class LabelledInfo)
    SPLIT.jsonl        one row per sample: its text or location, and its label
    SPLIT.npz          arrays of the modality, most with one entry or slice per sample
"""

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from recipes.data.shards import find_prepared, read_values, save_prepared
from recipes.errors import ConfigError, DataMismatch

FORMAT_VERSION = 1
TRAIN, VALID = "train", "valid"
"""Names of the files of the split that is trained on and of the one on which the best checkpoint is chosen, whatever the data call them."""
Log = Callable[[str], None]


@dataclass(frozen=True)
class LabelledInfo:
    """Content of prepared.json of labelled data."""

    kind: str
    """`kind` of the data section, such as labelled_text."""
    source: str
    settings: dict[str, Any]
    """The settings with which the folder was made, by their dotted names."""
    fingerprint: str
    """SHA-256 over all files. Equal if and only if a run would read the same data."""
    counts: dict[str, int]
    """Samples of each split: train, valid, and the test splits under their names."""
    values: dict[str, Any]
    """The settings that the training labels determine, such as objective.labels, by their dotted names."""
    unlabelled: list[str] = field(default_factory=list)
    """Splits without labels, which are predicted only."""
    version: int = FORMAT_VERSION
    tokenizer: str | None = None
    tokenizer_sha256: str | None = None
    encoding: int | None = None
    """Tokenizer of a text: file name, hash, and the version of the rules by which text became tokens. None for other data."""


class LabelledRow(NamedTuple):
    """One sample of a split: its text or its location, as the predictions show it, and its label (None: it has none)."""

    shown: str
    label: Any


class StoredSplit(NamedTuple):
    """One split: its samples, and the arrays of the modality."""

    rows: list[LabelledRow]
    arrays: Mapping[str, np.ndarray]


def save_split(folder: Path, name: str, split: StoredSplit) -> None:
    """Write a split. Raises: OSError."""
    with (folder / f"{name}.jsonl").open("w") as file:
        file.writelines(json.dumps(row._asdict()) + "\n" for row in split.rows)
    with (folder / f"{name}.npz").open("wb") as file:
        np.savez(file, allow_pickle=False, **dict(split.arrays))


def load_split_of(folder: Path, name: str) -> StoredSplit:
    """Read a split. Raises: ConfigError if it is damaged."""
    return StoredSplit(load_rows_of(folder, name), load_arrays_of(folder, name))


def load_rows_of(folder: Path, name: str) -> list[LabelledRow]:
    """Read the samples of a split, as predictions show them. Raises: ConfigError if it is damaged."""
    with _reading(folder, name):
        return [LabelledRow(**json.loads(line)) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def load_arrays_of(folder: Path, name: str) -> Mapping[str, np.ndarray]:
    """Read the arrays of a split, all that training needs of it. Raises: ConfigError if it is damaged."""
    with _reading(folder, name), np.load(folder / f"{name}.npz") as stored:
        return {key: stored[key] for key in stored.files}


@contextmanager
def _reading(folder: Path, name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{folder}: split {name} cannot be read ({error}); remove the folder and prepare it again") from None


def load_info(folder: Path) -> LabelledInfo:
    """Return the content of prepared.json. Raises: ConfigError if it cannot be read; DataMismatch if the folder has other data."""
    values = read_values(folder)
    kind = str(values.get("kind", "text"))
    if not kind.startswith("labelled_"):
        raise DataMismatch(f"{folder}: prepared from {kind} without labels; point --data at labelled data or choose another place")
    if values.get("version") != FORMAT_VERSION:
        raise ConfigError(
            f"{folder}: prepared format {values.get('version')}, this version reads {FORMAT_VERSION}; remove it and prepare it again"
        )
    try:
        info = LabelledInfo(**values)
        missing = [name for name in info.counts if not all((folder / f"{name}.{end}").is_file() for end in ("jsonl", "npz"))]
    except (TypeError, AttributeError) as error:
        raise ConfigError(f"{folder}: not readable as prepared data ({error}); remove the folder and prepare it again") from error
    if missing:
        raise ConfigError(f"{folder}: split {missing[0]} is missing; remove the folder and prepare it again")
    return info


def find_labelled(path: str | None, out_dir: Path, settings: Mapping[str, Any]) -> Path | None:
    """Return the existing prepared folder: the one that `path` names, or an earlier one at out_dir; None if one must be made. `settings`:
    those of the recipe that the data depend on. Raises: ConfigError if a folder is damaged; DataMismatch for other data or settings."""

    def check(folder: Path) -> None:
        made_with = load_info(folder).settings
        is_named = path is not None and folder == Path(path).expanduser()  # then data.path is not where the data come from
        for name, value in _plain(settings).items():
            if name in made_with and made_with[name] != value and not (name == "data.path" and is_named):
                raise DataMismatch(f"{folder}: prepared with {name} {made_with[name]}, now {value}; remove it or choose another place")

    return find_prepared(path, out_dir, check_fits=check, check_same_source=lambda folder: None)


def finish_folder(folder: Path, info: LabelledInfo) -> None:
    """Write prepared.json, with the fingerprint of all files that are there. Folders are not read: they may have copies of large tables, or
    places that change if the data are moved. Their writer puts a file beside them that stands for them."""
    digest = hashlib.sha256(json.dumps(_plain(info.values), sort_keys=True).encode())
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        digest.update(path.name.encode())
        digest.update(_content(path))
    save_prepared(folder, LabelledInfo(**(asdict(info) | {"fingerprint": digest.hexdigest(), "settings": _plain(info.settings)})))


def _content(path: Path) -> bytes:
    """Return what the file contains. Of an npz file, whose members have times, the arrays."""
    if path.suffix != ".npz":
        return path.read_bytes()
    with np.load(path) as stored:
        return b"".join(name.encode() + np.ascontiguousarray(stored[name]).tobytes() for name in sorted(stored.files))


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values as JSON gives them back: tuples as lists."""
    return dict(json.loads(json.dumps(dict(values))))


def num_held_out(num_samples: int, fraction: float) -> int:
    """Return how many of the training samples become the validation split: `fraction` of them, at least one, and never all."""
    return min(num_samples - 1, max(1, round(num_samples * fraction)))


def in_random_order(labels: Sequence[Any]) -> list[int]:
    """Return the indices of the training samples in a random order, always the same one, with one of each label before any second one.
    Training takes samples from its beginning and validation from its end, so both are the same whatever the share of the other."""
    order = np.random.Generator(np.random.Philox(0)).permutation(len(labels)).tolist()
    first = set({labels[number]: number for number in reversed(order)}.values())
    return sorted(order, key=lambda number: number not in first)
