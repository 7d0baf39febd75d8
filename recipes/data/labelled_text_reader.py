"""Reads and tokenizes labelled texts, and pairs of texts, for a prepared folder (labelled_prepare.py).

Shapes: N samples.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from model.frontends.config import TextFrontendConfig
from recipes.config import Recipe
from recipes.data.glue import load_glue
from recipes.data.labelled_folder import Log, load_info
from recipes.data.labelled_prepare import Encoded, RawSplit
from recipes.data.labelled_text import TableSplit, load_table
from recipes.data.labels import is_missing
from recipes.data.shards import hash_files
from recipes.data.tokenizer import (
    BOS,
    ENCODING,
    EOS,
    MODEL,
    TextSample,
    TokenizerFile,
    build_tokenize,
    encode_with,
    num_symbols,
    read_tokenizer,
    reads_pieces,
    token_dtype,
    train_tokenizer,
)
from recipes.errors import DataMismatch
from recipes.labelled_config import LabelledTextDataConfig

Text = tuple[str, ...]
"""One text, or the two of a pair."""


def read_table(data: LabelledTextDataConfig, split: str) -> TableSplit:
    """Return the columns of a split that the section `data` names. Raises: ConfigError if there is no such data or column of texts;
    MissingSplit if there is no such split."""
    load = partial(load_glue, task=data.glue_task) if data.glue_task else load_table
    return load(data.path, split=split, text_columns=data.text_columns, label_column=data.label_column)


def check_tokenizer(folder: Path, tokenizer: Path | None, vocab_size: int) -> None:
    """Check that a prepared folder was made with this tokenizer; None: with any of vocab_size symbols. Raises: DataMismatch if not;
    ConfigError if the tokenizer cannot be read or has another number of symbols."""
    info = load_info(folder)
    assert info.tokenizer is not None
    size = num_symbols(read_tokenizer(folder / info.tokenizer, None))
    if size != vocab_size:
        raise DataMismatch(f"{folder}: prepared with frontend.vocab_size {size}, now {vocab_size}; remove it or choose another place")
    if tokenizer is not None and hashlib.sha256(read_tokenizer(tokenizer, vocab_size).content).hexdigest() != info.tokenizer_sha256:
        raise DataMismatch(f"{folder}: prepared with another tokenizer than {tokenizer}; --set data.tokenizer=none or prepare it again")


class LabelledTextReader:
    """Reads the splits of a table, and turns texts into `<s> A </s>`, or pairs into `<s> A </s> </s> B </s>` (RoBERTa; fairseq
    sentence_prediction.py). Implements Reader."""

    def __init__(self, recipe: Recipe, tokenizer: Path | None, log: Log = lambda line: None) -> None:
        """`tokenizer`: file or folder of the tokenizer; None: one is trained on the training texts. `log` gets lines about it."""
        assert isinstance(recipe.data, LabelledTextDataConfig)
        self._data: LabelledTextDataConfig = recipe.data
        self.source = str(recipe.data.path)
        assert isinstance(recipe.frontend, TextFrontendConfig)
        self._vocab_size = recipe.frontend.vocab_size
        self._given, self._log = tokenizer, log
        self._file: TokenizerFile | None = None

    def read(self, split: str) -> RawSplit:
        """Read the texts and labels of a split. A text that is empty, or a pair of which one is, is None."""
        data = self._data
        table = read_table(data, split)
        rows = zip(*(table.cells.get(name, []) for name in data.text_columns), strict=True)
        contents = [None if any(map(is_missing, row)) else tuple(str(cell).strip() for cell in row) for row in rows]
        has_labels = data.label_column in table.columns
        cells = table.cells.get(data.label_column, []) if has_labels else [None] * len(contents)
        return RawSplit(split, contents, cells, table.class_names.get(data.label_column), table.columns, has_labels)

    def begin(self, folder: Path, contents: Sequence[Text]) -> dict[str, Any]:
        """Write the tokenizer into the folder: the given one, or one that is trained on the texts."""
        if self._given is not None:
            self._file = read_tokenizer(self._given, self._vocab_size, self._log)
        else:
            sample = TextSample(self._data.tokenizer_sample_megabytes * 1_000_000)
            for content in contents:
                for text in content:
                    sample.add(text)
            self._log(f"training a {self._data.tokenizer_type} tokenizer of {self._vocab_size} symbols on {len(contents)} training samples")
            self._file = TokenizerFile(MODEL, train_tokenizer(sample, self._data, self._vocab_size))
        path = folder / self._file.name
        path.write_bytes(self._file.content)
        return {"tokenizer": path.name, "tokenizer_sha256": hash_files([path]), "encoding": ENCODING}

    def encode(self, contents: Sequence[Text], targets: Sequence[Any] | None) -> Encoded:
        """Tokenize the samples: `tokens`, all in a row, and `ends`, the end of each. One that is too long is cut, which a line counts."""
        assert self._file is not None
        tokenize = _one_by_one(self._file)
        parts = [[tokenize(text) for text in content] for content in contents]
        samples = [joined(part, self._data.sequence_length) for part in parts]
        num_cut = sum(_length(part) > len(sample) for part, sample in zip(parts, samples, strict=True))
        if num_cut:
            self._log(f"{num_cut} of {len(samples)} texts are cut to data.sequence_length {self._data.sequence_length} tokens")
        tokens = np.concatenate(samples) if samples else np.empty(0)
        arrays = {"tokens": tokens.astype(token_dtype(self._vocab_size)), "ends": np.cumsum([len(one) for one in samples]).astype(np.int64)}
        return Encoded(list(range(len(samples))), [" | ".join(content) for content in contents], arrays, {})


def _one_by_one(file: TokenizerFile) -> Callable[[str], np.ndarray]:
    tokenize, is_cut = build_tokenize(file), reads_pieces(file.name, ENCODING)
    return lambda text: encode_with(tokenize, [text], is_cut=is_cut)[0][:-1]  # without the </s>


_NUM_SPECIAL = {1: 2, 2: 4}
"""Number of `<s>` and `</s>` in a sample of one text, and of two."""


def _length(parts: Sequence[np.ndarray]) -> int:
    return sum(map(len, parts)) + _NUM_SPECIAL[len(parts)]


def joined(parts: Sequence[np.ndarray], max_tokens: int) -> np.ndarray:
    """Return the ids of one sample: `<s> A </s>` or `<s> A </s> </s> B </s>`, at most max_tokens. The longer text of a pair is cut first,
    as transformers' `longest_first` does. `parts`: the tokens of each text. Shapes: int64 (tokens,)."""
    lengths = _kept([len(part) for part in parts], max_tokens - _NUM_SPECIAL[len(parts)])
    ids = [np.array([BOS])]
    for number, (part, length) in enumerate(zip(parts, lengths, strict=True)):
        ids += [np.array([EOS])] * bool(number) + [part[:length], np.array([EOS])]
    return np.concatenate(ids).astype(np.int64)


def _kept(lengths: list[int], room: int) -> list[int]:
    """Return how many tokens of each text are kept if all together have `room`. Of two texts, the shorter one (of equal ones the first) is
    cut only below half of the room. Source: tokenizers, truncate_encodings, LongestFirst."""
    if sum(lengths) <= room:
        return lengths
    if len(lengths) == 1:
        return [room]
    shorter = lengths.index(min(lengths))
    kept = min(lengths[shorter], room // 2)
    return [kept, room - kept] if shorter == 0 else [room - kept, kept]
