"""The tokenizer, a sentencepiece model: its training sample, training, checks, and encoding of paragraphs. Writes no token files and makes
no splits.

The ids are the published ones: `<s>` 0, `<pad>` 1, `</s>` 2, `<unk>` 3; `<mask>` is frontend.vocab_size - 1 and is not in the
sentencepiece model.
"""

import functools
import io
import os
import re
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path

import numpy as np
import sentencepiece

from recipes.config import TextDataConfig
from recipes.errors import ConfigError

BOS, PAD, EOS, UNK = 0, 1, 2, 3
MAX_PIECE_CHARACTERS = 2000
"""sentencepiece drops longer training sentences, and its BPE slows down with their length."""
TRAINING_THREADS = 16  # fixed, since the result depends on it: unigram's EM sums per thread


class TextSample:
    """A sample of at most `max_bytes` that is spread evenly over all added texts. It keeps every n-th text; n doubles when it is full."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._texts: list[tuple[int, str]] = []
        self.num_bytes = 0
        self._stride = 1
        self._num_seen = 0

    def add(self, paragraph: str) -> None:
        """Add one paragraph. It may or may not become part of the sample."""
        for piece in cut(paragraph):
            if self._num_seen % self._stride == 0:
                self._texts.append((len(piece.encode()), piece))
                self.num_bytes += self._texts[-1][0]
            self._num_seen += 1
        while self.num_bytes > self._max_bytes and len(self._texts) > 1:
            self._texts = self._texts[::2]
            self._stride *= 2
            self.num_bytes = sum(num_bytes for num_bytes, _ in self._texts)

    def __iter__(self) -> Iterator[str]:
        return (text for _, text in self._texts)


def cut(paragraph: str) -> list[str]:
    """Return the paragraph in pieces of at most 2,000 characters (MAX_PIECE_CHARACTERS). It is cut at spaces, so that the tokens of the
    pieces are those of the paragraph. Only a longer stretch without spaces is cut in its middle."""
    pieces = []
    while len(paragraph) > MAX_PIECE_CHARACTERS:
        space = paragraph.rfind(" ", 1, MAX_PIECE_CHARACTERS + 1)
        end = space if space > 0 else MAX_PIECE_CHARACTERS
        pieces.append(paragraph[:end])
        paragraph = paragraph[end:].lstrip(" ")
    return [*pieces, paragraph]


def train_tokenizer(sample: Iterable[str], data: TextDataConfig, vocab_size: int) -> bytes:
    """Train a sentencepiece model of vocab_size - 1 symbols (all but `<mask>`) and return its bytes.

    Raises: ConfigError if the text does not yield that many symbols, or has more different characters.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sample),
            model_writer=model,
            model_type=data.tokenizer_type,
            vocab_size=vocab_size - 1,
            normalization_rule_name="nmt_nfkc_cf" if data.lowercase else "nmt_nfkc",
            bos_id=BOS,
            pad_id=PAD,
            eos_id=EOS,
            unk_id=UNK,
            max_sentence_length=8 * MAX_PIECE_CHARACTERS,
            num_threads=TRAINING_THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ConfigError(_vocabulary_complaint(str(error), vocab_size)) from error
    return model.getvalue()


def _vocabulary_complaint(message: str, vocab_size: int) -> str:
    if found := re.search(r"too high.*<= (\d+)", message, re.DOTALL):
        most = int(found[1]) + 1
        return (
            f"frontend.vocab_size {vocab_size} is too large, this text yields at most {most}; --set frontend.vocab_size={most} or more text"
        )
    if found := re.search(r"required_chars.*\. \d+ vs (\d+)", message, re.DOTALL):
        least = int(found[1]) + 1
        return f"frontend.vocab_size {vocab_size} is too small, the characters alone need {least}; --set frontend.vocab_size={2 * least}"
    return f"no tokenizer could be trained on this text ({' '.join(message.split())}); use more text, or --set data.tokenizer=FILE.model"


def read_tokenizer(path: Path, vocab_size: int) -> bytes:
    """Return the bytes of a .model file.

    Raises: ConfigError unless it is a sentencepiece model of vocab_size - 1 symbols, with the ids `<s>` 0, `<pad>` 1, `</s>` 2, `<unk>` 3.
    """
    try:
        content = path.expanduser().read_bytes()
        processor = sentencepiece.SentencePieceProcessor(model_proto=content)
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"data.tokenizer {path}: no sentencepiece model ({error}); give a .model file or none") from error
    ids = (processor.bos_id(), processor.pad_id(), processor.eos_id(), processor.unk_id())
    if ids != (BOS, PAD, EOS, UNK):
        raise ConfigError(f"data.tokenizer {path}: bos, pad, eos, unk are {ids}; train it with --bos_id=0 --pad_id=1 --eos_id=2 --unk_id=3")
    if (size := processor.get_piece_size()) != vocab_size - 1:
        found = f"data.tokenizer {path}: {size} symbols, frontend.vocab_size {vocab_size} needs {vocab_size - 1} (and <mask>)"
        raise ConfigError(f"{found}; --set frontend.vocab_size={size + 1}")
    return content


def is_lowercasing(content: bytes) -> bool:
    """True if the normalisation of a .model file converts text to lower case."""
    return sentencepiece.SentencePieceProcessor(model_proto=content).normalize("A").strip("\u2581 ") == "a"


def token_dtype(vocab_size: int) -> np.dtype:
    """Return the smallest dtype for tokens.bin that can store every id."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


@functools.cache
def _processor(model_path: str, changed_ns: int, inode: int) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=model_path)


def encode(model_path: str, paragraphs: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens of all paragraphs, each with `</s>` at its end, and the number of tokens per paragraph (0 if it was only space).

    A module-level function with plain arguments, so that worker processes can run it. Each process loads the model once.
    """
    pieces = [cut(paragraph) for paragraph in paragraphs]
    model = os.stat(model_path)  # part of the cache key: a second preparation at the same path has another model
    encoded = iter(_processor(model_path, model.st_mtime_ns, model.st_ino).encode(list(chain.from_iterable(pieces)), num_threads=1))
    tokens: list[int] = []
    lengths = np.zeros(len(paragraphs), dtype=np.int64)
    for index, own in enumerate(pieces):
        start = len(tokens)
        tokens.extend(chain.from_iterable(islice(encoded, len(own))))
        if len(tokens) > start:
            tokens.append(EOS)
        lengths[index] = len(tokens) - start
    return np.array(tokens, dtype=np.uint32), lengths
