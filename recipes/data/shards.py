"""The prepared folder of text: token shards, boundaries, sample index and prepared.json. It is written completely or not at all, and read
memory-mapped. Text is read in source.py and tokenized in tokenizer.py.

    prepared.json          what is in the folder (class Prepared)
    tokenizer.model        sentencepiece; or tokenizer.json, canonical (tokenizer_json.py)
    tokens.bin             every token of the corpus in order, uint16 or uint32
    paragraph_ends.bin     int64 token offsets; likewise document_ends.bin
    train.npy, valid.npy   int64 rows (start, length): the samples, without `<s>`
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import DTypeLike

from recipes.data.tokenizer_files import FILES, MODEL
from recipes.errors import ConfigError, DataMismatch

FORMAT_VERSION = 1
CONTENT_FILES = ("tokens.bin", "paragraph_ends.bin", "document_ends.bin", "train.npy", "valid.npy")
KEPT = dict.fromkeys(FILES, "data.tokenizer")
"""Files of the first prepared folder that a run uses until its end, even if it reads other data later, because its embeddings depend on
them: file name -> setting with which the user can give the file."""


@dataclass(frozen=True)
class Prepared:
    """Content of prepared.json in a prepared folder of text."""

    version: int
    source: str
    fingerprint: str
    """SHA-256 over tokens, boundaries, samples and tokenizer. Equal if and only if a run would read the same data."""
    tokenizer_sha256: str
    vocab_size: int
    dtype: str
    counts: dict[str, int]
    """documents, paragraphs, tokens, bytes, train_samples, valid_samples, train_tokens, valid_tokens."""
    data: dict[str, Any]
    """The TextDataConfig with which the folder was made."""
    sources: dict[str, str] | None = None
    """Record of the contents of the text files (contents.Record). None if there are no files, as for data from a hub."""
    tokenizer: str = MODEL  # the only file name of older releases
    encoding: int = 1
    """Version of the rules by which text became tokens (tokenizer.ENCODING). Older releases had only the first."""


def is_prepared(folder: Path) -> bool:
    """True if the folder has a prepared.json. load_prepared checks whether it can be used."""
    return os.path.isfile(folder / "prepared.json")  # unlike Path.is_file, False if the folder may not be read


def find_prepared(
    path: str | None, out_dir: Path, *, check_fits: Callable[[Path], None], check_same_source: Callable[[Path], None]
) -> Path | None:
    """Return the existing prepared folder: the one that `path` (data.path) names, or an earlier one at out_dir. None if one must be made.

    Raises: ConfigError if out_dir exists and is not a prepared folder, and what the two checks raise: ConfigError for a damaged folder,
    DataMismatch for other data or settings.
    """
    if path is not None and is_prepared(folder := Path(path).expanduser()):
        check_fits(folder)
        return folder
    if is_prepared(out_dir):
        check_same_source(out_dir)  # first: if the user names other data, the earlier data may be gone, which check_fits would report
        check_fits(out_dir)
        return out_dir
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise ConfigError(f"{out_dir}: exists and is no prepared folder; remove it or choose another place")
    return None


def load_prepared(folder: Path) -> Prepared:
    """Return the content of prepared.json in a prepared folder of text. Check before that all files exist and have the right size.

    Raises: ConfigError if a file is missing or damaged; DataMismatch if the folder was prepared for another modality.
    """
    try:
        values = json.loads((folder / "prepared.json").read_text())
        if "kind" in values:
            raise DataMismatch(
                f"{folder}: prepared from {values['kind']} data, not from text; point --data at text or choose another place"
            )
        if values.get("version") != FORMAT_VERSION:
            raise ConfigError(
                f"{folder}: prepared format {values.get('version')}, this version reads {FORMAT_VERSION}; remove it and prepare it again"
            )
        prepared = Prepared(**values)
        wrong = [name for name, size in _expected_sizes(prepared).items() if (folder / name).stat().st_size != size]
        missing = [name for name in (prepared.tokenizer, "train.npy", "valid.npy") if not (folder / name).is_file()]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{folder}: not readable as prepared data ({error}); remove the folder and prepare it again") from error
    if wrong or missing:
        raise ConfigError(f"{folder}: {', '.join(wrong + missing)} damaged or missing; remove the folder and prepare it again")
    return prepared


def _expected_sizes(prepared: Prepared) -> dict[str, int]:
    counts = prepared.counts
    return {
        "tokens.bin": counts["tokens"] * np.dtype(prepared.dtype).itemsize,
        "paragraph_ends.bin": counts["paragraphs"] * 8,
        "document_ends.bin": counts["documents"] * 8,
    }


def read_values(folder: Path) -> dict[str, Any]:
    """Return the content of prepared.json (of text, speech or images) without any check. {} if it cannot be read."""
    try:
        values = json.loads((folder / "prepared.json").read_text())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def note_on_short(folder: Path) -> str:
    """Return how many items of a prepared folder were left out as too short, and the setting that decides it. "" if there are none."""
    values = read_values(folder)
    num_short, shortest = values.get("counts", {}).get("short", 0), values.get("settings", {}).get("data.min_seconds", 0)
    return f"{num_short} are left out as shorter than data.min_seconds {shortest:g}" if num_short else ""


def kept_files(folder: Path) -> dict[str, str]:
    """Return file name -> SHA-256 for the tokenizer of a folder of text. A run uses this file until its end, even if it reads other data
    later. {} for speech and images, which have no tokenizer."""
    values = read_values(folder)
    return {values.get("tokenizer", Prepared.tokenizer): values["tokenizer_sha256"]} if values.get("tokenizer_sha256") else {}


def encoding_of(folder: Path) -> int | None:
    """Return the version of the rules by which text became tokens in a prepared folder. None for speech and images."""
    return recorded_encoding(read_values(folder)) if kept_files(folder) else None


def recorded_encoding(content: Mapping[str, Any]) -> int:
    """Return the version of the rules by which text became tokens from the content of prepared.json, or of config.json of a run of text.
    Older releases recorded none and had the first."""
    return content.get("encoding") or Prepared.encoding


def map_array(path: Path, dtype: DTypeLike) -> np.ndarray:
    """Return the file as a read-only memory-mapped array. An empty file cannot be mapped; it gives an empty array."""
    # A plain array: np.memmap, a subclass, makes every small slice and search slower.
    return np.asarray(np.memmap(path, dtype=dtype, mode="r")) if path.stat().st_size else np.empty(0, dtype=dtype)


class ShardWriter:
    """Appends tokenized paragraphs to tokens.bin, paragraph_ends.bin and document_ends.bin."""

    def __init__(self, folder: Path, dtype: np.dtype) -> None:
        self._dtype = dtype
        names = ("tokens", "paragraph_ends", "document_ends")
        self._files: dict[str, BinaryIO] = {name: (folder / f"{name}.bin").open("wb") for name in names}
        self._document: int | None = None
        self.counts = {"documents": 0, "paragraphs": 0, "tokens": 0}

    def append(self, documents_P: np.ndarray, lengths_P: np.ndarray, tokens: np.ndarray) -> None:
        """Append paragraphs in corpus order. Paragraphs without tokens are left out.

        `documents_P`: for each paragraph the number of its document. `lengths_P`: for each paragraph its number of tokens. `tokens`: the
        tokens of all these paragraphs.
        """
        documents_P, lengths_P = documents_P[lengths_P > 0], lengths_P[lengths_P > 0]
        if not len(lengths_P):
            return
        ends_P = self.counts["tokens"] + np.cumsum(lengths_P)
        previous = documents_P[0] if self._document is None else self._document
        is_first_P = documents_P != np.concatenate(([previous], documents_P[:-1]))
        self._write("tokens", tokens.astype(self._dtype))
        self._write("paragraph_ends", ends_P.astype(np.int64))
        self._write("document_ends", (ends_P - lengths_P)[is_first_P].astype(np.int64))
        self.counts["documents"] += int(is_first_P.sum())
        self.counts["paragraphs"] += len(lengths_P)
        self.counts["tokens"] += len(tokens)
        self._document = int(documents_P[-1])

    def finish(self) -> None:
        """Write the end of the last document and close the files."""
        if self._document is not None:
            self._write("document_ends", np.array([self.counts["tokens"]], dtype=np.int64))
            self.counts["documents"] += 1
        for file in self._files.values():
            file.close()

    def discard(self) -> None:
        """Close the files and ignore errors. Called before the folder is removed: closing a file on a full disk raises once more."""
        for file in self._files.values():
            with suppress(OSError):
                file.close()

    def _write(self, name: str, array: np.ndarray) -> None:
        self._files[name].write(np.ascontiguousarray(array).data.cast("B"))


def save_prepared(folder: Path, prepared: Any) -> None:
    """Write prepared.json into the folder. `prepared`: Prepared, or the dataclass of another kind of data."""
    (folder / "prepared.json").write_text(json.dumps(asdict(prepared), indent=1) + "\n")


def hash_files(paths: list[Path]) -> str:
    """Return the SHA-256 over the contents of the files, in this order."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()
