"""Turns raw text into a prepared folder: tokenizer, tokens, splits and samples. Contains the order of the steps. The steps themselves are
in source.py, tokenizer.py, encoding.py, packing.py and shards.py."""

import hashlib
import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

import numpy as np

from model.frontends.config import TextFrontendConfig
from recipes.data import shards
from recipes.data.contents import ResumedRun, compare_contents, record_files
from recipes.data.encoding import batches, encode_in_order
from recipes.data.packing import Boundaries, build_samples
from recipes.data.progress import ByteProgress
from recipes.data.source import TextSource, open_source
from recipes.data.tokenizer import (
    ENCODING,
    MODEL,
    UNK,
    TextSample,
    TokenizerFile,
    is_lowercasing,
    read_tokenizer,
    token_dtype,
    train_tokenizer,
)
from recipes.data.tokenizer_files import tokenizer_in
from recipes.data_config import TextDataConfig
from recipes.errors import ConfigError, DataMismatch
from recipes.labelled_config import LabelledTextDataConfig
from recipes.system.atomic_folder import atomic_folder

USED_FOR: dict[str, Literal["always", "columns", "training"]] = {
    **dict.fromkeys(("path", "split", "tokenizer", "lowercase", "sequence_length", "break_mode", "heldout_fraction"), "always"),
    "packing": "always",
    "text_column": "columns",
    **dict.fromkeys(("tokenizer_type", "tokenizer_sample_megabytes"), "training"),
}
"""When each setting is used: always, for text that has columns, or to train a tokenizer. The log names settings that have no effect."""
MANY_UNKNOWN, TOO_MANY_UNKNOWN = 0.01, 0.2
"""Shares of `<unk>` among the tokens. Above the first, the log says so. Above the second, the text is refused."""
BYTES_PER_PROCESS = 1 << 25
"""Bytes of text per process. With less text, one more process costs more than it saves."""


def prepare_text(
    data: TextDataConfig,
    frontend: TextFrontendConfig,
    out_dir: Path,
    *,
    num_processes: int | None = None,
    progress: bool = False,
    log: Callable[[str], None] = lambda line: None,
    run: ResumedRun | None = None,
) -> Path:
    """Return the prepared folder for `data`: the one that data.path names, an earlier one at out_dir, or a new one at out_dir.

    The result does not depend on num_processes (None: the number of cores that this process may use). out_dir appears complete or not at
    all. Call this function on one rank only. It spawns processes, so the caller's script needs `if __name__ == "__main__"`. `run`: the
    files of an earlier start of the same run. If they include a tokenizer, a new folder gets that tokenizer.

    Raises: ConfigError for everything that the user can fix. DataMismatch if the existing folder does not fit.
    """
    tokenizer = tokenizer_of_run(data, run)  # first, since a run never changes it
    known = data if tokenizer is None else replace(data, tokenizer=str(tokenizer))
    found = shards.find_prepared(
        data.path,
        out_dir,
        check_fits=lambda folder: check_fits(folder, known if folder == out_dir else data, frontend),
        check_same_source=lambda folder: _check_same_source(folder, known),
    )
    if found is not None:
        return found
    processes = num_processes or len(os.sched_getaffinity(0))
    encoding = run.encoding if run and run.encoding else ENCODING
    steps = _Preparation(data, frontend.vocab_size, processes, progress, log, tokenizer=tokenizer, encoding=encoding)
    with atomic_folder(out_dir) as folder:
        steps.run(folder)
    return out_dir


def check_fits(folder: Path, data: TextDataConfig, frontend: TextFrontendConfig) -> None:
    """Check that the prepared folder is complete and was made with these settings and this tokenizer. Raises: ConfigError if the folder is
    damaged; DataMismatch if a setting or the tokenizer differs."""
    prepared = shards.load_prepared(folder)
    wanted = {"frontend.vocab_size": frontend.vocab_size} | {
        f"data.{key}": getattr(data, key) for key in ("sequence_length", "break_mode", "heldout_fraction")
    }
    for name, value in wanted.items():
        made_with = prepared.vocab_size if name == "frontend.vocab_size" else prepared.data[name.removeprefix("data.")]
        if made_with != value:
            raise DataMismatch(
                f"{folder}: prepared with {name} {made_with}, the recipe has {value}; --set {name}={made_with} or prepare it again"
            )
    if data.tokenizer is not None:
        given = hashlib.sha256(read_tokenizer(Path(data.tokenizer), frontend.vocab_size).content).hexdigest()
        if given != prepared.tokenizer_sha256:
            raise DataMismatch(
                f"{folder}: prepared with another tokenizer than {data.tokenizer}; --set data.tokenizer=none or prepare it again"
            )


def _check_same_source(folder: Path, data: TextDataConfig) -> None:
    """Check that an earlier preparation at `folder` was made from the same text with the same settings. The text itself may have been
    removed since. Tokenizers are compared by content, in check_fits. A setting that did not exist when the folder was made counts as its
    default.

    Raises: DataMismatch if text or settings differ."""
    prepared = shards.load_prepared(folder)
    is_same_path = data.path is not None and str(Path(data.path).expanduser().resolve()) == prepared.source
    made_with = asdict(TextDataConfig()) | prepared.data
    for key, value in asdict(data).items():
        # one folder serves both kinds of rows
        is_settled = (key == "path" and is_same_path) or (key == "tokenizer" and value is not None) or key == "packing"
        if made_with[key] != value and not is_settled:
            raise DataMismatch(f"{folder}: prepared with data.{key} {made_with[key]}, now {value}; remove it or choose another place")
    if (look := compare_contents(folder)).changed:
        raise DataMismatch(f"{folder}: {look}; remove it or choose another place")


def tokenizer_of_run(data: TextDataConfig | LabelledTextDataConfig, run: ResumedRun | None) -> Path | None:
    """Return the tokenizer's file or folder: the file that an earlier start of the run has kept. If there is none, return the path in
    data.tokenizer. None if that is not set: a tokenizer must be trained. Raises: ConfigError if both exist and differ."""
    given = None if data.tokenizer is None else Path(data.tokenizer).expanduser()
    kept = tokenizer_in(run.kept) if run and run.kept else None
    if kept is None:
        return given
    if given is not None and given.exists() and read_tokenizer(given, None).content != kept.read_bytes():
        raise ConfigError(
            f"data.tokenizer {given} is not that of the run, by which its embeddings were learned; --set data.tokenizer={kept}"
        )
    return kept


class _Preparation:
    """The steps that turn a corpus into a prepared folder. run() takes all of them, in order."""

    def __init__(
        self,
        data: TextDataConfig,
        vocab_size: int,
        num_processes: int,
        show_bar: bool,
        log: Callable[[str], None],
        *,
        tokenizer: Path | None,
        encoding: int,
    ) -> None:
        """Open the corpus that `data` names, and log what is read. `tokenizer`: its file or folder; None: a tokenizer is trained.
        `encoding`: the version of encode()."""
        self._given_tokenizer, self._encoding = tokenizer, encoding
        self._data, self._vocab_size, self._num_processes = data, vocab_size, num_processes
        self._show_bar, self._log = show_bar, log
        self._source: TextSource = open_source(data)
        self._num_bytes = 0
        if self._source.note:
            log(self._source.note)

    def run(self, folder: Path) -> None:
        """Write everything into the folder: tokenizer, tokens, samples and at last prepared.json. Raises: ConfigError."""
        tokenizer = self._tokenizer()
        tokenizer_path = folder / tokenizer.name
        tokenizer_path.write_bytes(tokenizer.content)
        counts = self._write_tokens(folder, str(tokenizer_path))
        counts |= self._write_samples(folder)
        prepared = shards.Prepared(
            version=shards.FORMAT_VERSION,
            source=self._source.name,
            fingerprint=shards.hash_files([folder / name for name in (tokenizer.name, *shards.CONTENT_FILES)]),
            tokenizer_sha256=shards.hash_files([tokenizer_path]),
            vocab_size=self._vocab_size,
            dtype=token_dtype(self._vocab_size).name,
            counts=counts,
            data=asdict(self._data),
            sources=record_files(folder, self._source.paths),
            tokenizer=tokenizer.name,
            encoding=self._encoding,
        )
        shards.save_prepared(folder, prepared)
        found = f"{counts['documents']} documents, {counts['tokens']} tokens"
        self._log(f"prepared {found}: {counts['train_samples']} train and {counts['valid_samples']} held-out samples")
        self._log_unused_settings()

    def _log_unused_settings(self) -> None:
        reasons = {"columns": "" if self._source.has_columns else "this text has no columns"}
        reasons["training"] = "" if self._data.tokenizer is None else "data.tokenizer is given"
        for use, reason in reasons.items():
            settings = {key: getattr(self._data, key) for key, used_for in USED_FOR.items() if used_for == use}
            named = [f"data.{key} {value}" for key, value in settings.items() if value != getattr(TextDataConfig, key)]
            if reason and named:
                self._log(f"without effect, as {reason}: {', '.join(named)}")

    def _tokenizer(self) -> TokenizerFile:
        if self._given_tokenizer is not None:
            return self._read_given(self._given_tokenizer)
        sample = TextSample(self._data.tokenizer_sample_megabytes * 1_000_000)
        reading = self._progress("reading")
        for batch in batches(self._source):
            for paragraph in batch.paragraphs:
                sample.add(paragraph)
            reading.add(batch.num_bytes)
        reading.close()
        self._num_bytes = reading.num_bytes
        self._check_any_text(reading.num_bytes)
        share = f"{sample.num_bytes / 1e6:.1f} of {reading.num_bytes / 1e6:.1f} MB"
        self._log(f"training a {self._data.tokenizer_type} tokenizer of {self._vocab_size} symbols on {share}")
        return TokenizerFile(MODEL, train_tokenizer(sample, self._data, self._vocab_size))

    def _read_given(self, path: Path) -> TokenizerFile:
        file = read_tokenizer(path, self._vocab_size, self._log)
        if is_lowercasing(file) and not self._data.lowercase:
            self._log(f"data.tokenizer {path} lower-cases the text, whatever data.lowercase says")
        elif self._data.lowercase and not is_lowercasing(file):
            raise ConfigError(
                f"data.lowercase is true, and data.tokenizer {path} keeps capitals; --set data.lowercase=false, or give a tokenizer "
                "that converts to lower case (sentencepiece: --normalization_rule_name=nmt_nfkc_cf)"
            )
        return file

    def _check_unknown(self, num_unknown: int, num_tokens: int) -> None:
        share = num_unknown / max(1, num_tokens)
        found = f"{100 * share:.1f} % of the tokens are <unk>"
        if share > TOO_MANY_UNKNOWN:
            raise ConfigError(
                f"{self._source.name}: {found}, so the tokenizer does not fit this text; --set data.tokenizer=none trains one"
            )
        if share > MANY_UNKNOWN:
            self._log(f"{found}: the tokenizer does not know many of the text's characters")

    def _write_tokens(self, folder: Path, tokenizer_path: str) -> dict[str, int]:
        num_processes = self._num_processes if not self._num_bytes else min(self._num_processes, 1 + self._num_bytes // BYTES_PER_PROCESS)
        writer = shards.ShardWriter(folder, token_dtype(self._vocab_size))
        tokenizing = self._progress("tokenizing")
        num_unknown = 0
        try:
            with closing(
                encode_in_order(batches(self._source), tokenizer_path, num_processes, self._encoding)
            ) as encoded:  # closing ends its processes, also after an error
                for batch, (tokens, lengths_P) in encoded:
                    writer.append(np.array(batch.documents), lengths_P, tokens)
                    num_unknown += int((tokens == UNK).sum())
                    tokenizing.add(batch.num_bytes)
            writer.finish()
        finally:
            writer.discard()
            tokenizing.close()
        self._check_any_text(writer.counts["tokens"])
        self._check_unknown(num_unknown, writer.counts["tokens"])
        self._log(f"tokenized {tokenizing} with {num_processes} process{'es' if num_processes > 1 else ''}")
        return writer.counts | {"bytes": tokenizing.num_bytes}

    def _write_samples(self, folder: Path) -> dict[str, int]:
        paragraph_ends, document_ends = (shards.map_array(folder / name, np.int64) for name in ("paragraph_ends.bin", "document_ends.bin"))
        samples = build_samples(
            Boundaries(paragraph_ends, document_ends),
            sequence_length=self._data.sequence_length,
            break_mode=self._data.break_mode,
            heldout_fraction=self._data.heldout_fraction,
        )
        counts: dict[str, int] = {}
        for split, rows_N2 in samples.items():
            with (folder / f"{split}.npy").open("wb") as file:
                np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(rows_N2))
                file.write(np.ascontiguousarray(rows_N2).tobytes())  # np.save loses the errno of a full disk
            counts |= {f"{split}_samples": len(rows_N2), f"{split}_tokens": int(rows_N2[:, 1].sum())}
        return counts

    def _progress(self, label: str) -> ByteProgress:
        return ByteProgress(label, self._num_bytes, show_bar=self._show_bar, log=self._log)

    def _check_any_text(self, amount: int) -> None:
        if not amount:
            raise ConfigError(f"{self._source.name}: no text in it, every document is empty; point --data at something else")
