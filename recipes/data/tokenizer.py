"""The tokenizer, a sentencepiece model or a tokenizer.json: its training sample, training, checks, and encoding of paragraphs. What only
concerns tokenizer.json is in tokenizer_json.py. Writes no token files and makes no splits.

The ids are the published ones: `<s>` 0, `<pad>` 1, `</s>` 2, `<unk>` 3; `<mask>` is frontend.vocab_size - 1. It is not in a sentencepiece
model.
"""

import functools
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import sentencepiece

from recipes.data import tokenizer_json
from recipes.data.shards import encoding_of
from recipes.data.tokenizer_files import FILES, MODEL, tokenizer_in
from recipes.errors import ConfigError

BOS, PAD, EOS, UNK = 0, 1, 2, 3
ENCODING = 2
"""Version of encode(). 1: a sentencepiece model gets a paragraph in pieces of at most 2,000 characters. 2: whole, as its export does."""
MAX_PIECE_CHARACTERS = 2000
"""sentencepiece drops longer training sentences."""
Tokenize = Callable[[list[str]], Iterable[list[int]]]
"""Texts -> the ids of each."""
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


class TokenizerSettings(Protocol):
    """What the sections of text and of labelled text both have: the settings of a tokenizer that is trained."""

    @property
    def tokenizer_type(self) -> str:
        """unigram or bpe."""

    @property
    def lowercase(self) -> bool:
        """True: text is turned into lower case."""


def train_tokenizer(sample: Iterable[str], data: TokenizerSettings, vocab_size: int) -> bytes:
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


class TokenizerFile(NamedTuple):
    """A tokenizer as it is kept: the file's name, one of FILES, and its bytes."""

    name: str
    content: bytes


class StoredTokenizer(NamedTuple):
    """The tokenizer of a trained network, and the version of encode() by which its text became tokens."""

    file: TokenizerFile
    encoding: int = ENCODING


def read_tokenizer(path: Path, vocab_size: int | None, log: Callable[[str], None] = lambda line: None) -> TokenizerFile:
    """Return the tokenizer that data.tokenizer names: a sentencepiece .model, a tokenizer.json, or a Hugging Face folder with one. A
    tokenizer.json is returned in its canonical form. `vocab_size`: frontend.vocab_size; None: any size is right. `log` gets a line about
    symbols that had to be added.

    Raises: ConfigError unless it is a tokenizer of vocab_size symbols, `<mask>` included. A .model must have the ids `<s>` 0, `<pad>` 1,
    `</s>` 2, `<unk>` 3.
    """
    place = path.expanduser()
    if place.suffix == ".json" or place.is_dir():
        file = TokenizerFile(tokenizer_json.FILE, tokenizer_json.read_canonical(path, log))
    else:
        file = TokenizerFile(MODEL, _read_model(path))
    if vocab_size is not None and (size := num_symbols(file)) != vocab_size:
        found = f"data.tokenizer {path}: {size - 1} symbols, frontend.vocab_size {vocab_size} needs {vocab_size - 1} (and <mask>)"
        raise ConfigError(f"{found}; --set frontend.vocab_size={size}")
    return file


def _read_model(path: Path) -> bytes:
    try:
        content = path.expanduser().read_bytes()
        processor = sentencepiece.SentencePieceProcessor(model_proto=content)
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"data.tokenizer {path}: no sentencepiece model ({error}); give a .model file or none") from error
    ids = (processor.bos_id(), processor.pad_id(), processor.eos_id(), processor.unk_id())
    if ids != (BOS, PAD, EOS, UNK):
        raise ConfigError(f"data.tokenizer {path}: bos, pad, eos, unk are {ids}; train it with --bos_id=0 --pad_id=1 --eos_id=2 --unk_id=3")
    return content


def find_tokenizer(folder: Path) -> Path:
    """Return the path of the tokenizer in a prepared folder or a run dir. Raises: ConfigError if there is none."""
    found = tokenizer_in(folder)
    if found is None:
        names = " or ".join(reversed(FILES))
        raise ConfigError(f"{folder}: the run's tokenizer is not there ({names}); put the run's prepared folder back")
    return found


def stored_tokenizer(folder: Path) -> StoredTokenizer:
    """Return the tokenizer in a prepared folder, with the version by which its text was encoded. Raises: ConfigError if there is none."""
    path = find_tokenizer(folder)
    try:
        file = TokenizerFile(path.name, path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: the run's tokenizer cannot be read ({error.strerror}); put the run's prepared folder back") from None
    return StoredTokenizer(file, encoding_of(folder) or ENCODING)  # an imported run has a tokenizer before it has text


def num_symbols(file: TokenizerFile) -> int:
    """Return the number of symbols, `<mask>` included."""
    if file.name == MODEL:
        return int(sentencepiece.SentencePieceProcessor(model_proto=file.content).get_piece_size()) + 1
    return tokenizer_json.num_symbols(file.content)


def is_lowercasing(file: TokenizerFile) -> bool:
    """True if the tokenizer converts text to lower case."""
    if file.name == MODEL:
        return bool(sentencepiece.SentencePieceProcessor(model_proto=file.content).normalize("A").strip("\u2581 ") == "a")
    return tokenizer_json.is_lowercasing(file.content)


def is_word(path: Path) -> np.ndarray:
    """Return, for each id of the tokenizer file, True if the symbol is a whole word of letters, at the start of a word."""
    if path.name != MODEL:
        return tokenizer_json.is_word(path.read_bytes())
    processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    pieces = (processor.id_to_piece(number) for number in range(processor.get_piece_size()))
    return np.array([piece[0] == tokenizer_json.WORD_START and piece[1:].isalpha() for piece in pieces])


def token_dtype(vocab_size: int) -> np.dtype:
    """Return the smallest dtype for tokens.bin that can store every id."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


def build_tokenize(file: TokenizerFile) -> Tokenize:
    """Return the function that gives the ids of each of some texts, without `<s>` and `</s>`."""
    if file.name == tokenizer_json.FILE:
        return functools.partial(tokenizer_json.encode_each, tokenizer_json.load(file.content))
    return functools.partial(sentencepiece.SentencePieceProcessor(model_proto=file.content).encode, num_threads=1)


@functools.cache
def _tokenize(path: str, changed_ns: int, inode: int) -> Tokenize:
    return build_tokenize(TokenizerFile(os.path.basename(path), Path(path).read_bytes()))


def encode(tokenizer_path: str, paragraphs: list[str], version: int = ENCODING) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens of all paragraphs, each with `</s>` at its end, and the number of tokens per paragraph (0 if it was only space).

    A module-level function with plain arguments, so that worker processes can run it. Each process loads the tokenizer once. `version`: see
    ENCODING.
    """
    file = os.stat(tokenizer_path)  # part of the cache key: a second preparation at the same path has another file
    tokenize = _tokenize(tokenizer_path, file.st_mtime_ns, file.st_ino)
    return encode_with(tokenize, paragraphs, is_cut=reads_pieces(os.path.basename(tokenizer_path), version))


def reads_pieces(name: str, version: int) -> bool:
    """True if the tokenizer in a file of this name gets paragraphs in pieces, which is version 1 of a sentencepiece model."""
    return version == 1 and name != tokenizer_json.FILE


def encode_with(tokenize: Tokenize, paragraphs: list[str], *, is_cut: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the same as encode(), by a function that build_tokenize() returned. `is_cut`: the tokenizer gets paragraphs in pieces."""
    pieces = [cut(paragraph) if is_cut else [paragraph] for paragraph in paragraphs]
    encoded = iter(tokenize(list(chain.from_iterable(pieces))))
    tokens: list[int] = []
    lengths = np.zeros(len(paragraphs), dtype=np.int64)
    for index, own in enumerate(pieces):
        start = len(tokens)
        tokens.extend(chain.from_iterable(islice(encoded, len(own))))
        if len(tokens) > start:
            tokens.append(EOS)
        lengths[index] = len(tokens) - start
    return np.array(tokens, dtype=np.uint32), lengths
