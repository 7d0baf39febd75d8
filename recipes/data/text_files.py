"""Reads .txt and .txt.gz files as paragraphs. They are read line by line, so that errors name the file and the line, and memory use is
constant.

A paragraph is the unit that ends with `</s>`. In hard-wrapped text (lines of at most 120 characters, some of them blank) a paragraph is all
lines up to the next blank line, joined by spaces. In any other text every line is a paragraph. The first 1,000 lines decide which it is.
"""

import codecs
import gzip
import io
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path

from recipes.errors import ConfigError

PROBE_LINES = 1000
WRAP_COLUMNS = 120
MAX_LINE_BYTES = 1 << 20
"""A longer line is read in pieces, each of which is a paragraph."""


def read_paragraphs(path: Path) -> Iterator[str]:
    """Yield the file's paragraphs, without BOM and line ends. Form feeds become spaces.

    Raises: ConfigError with file and line for binary content or a byte that is not UTF-8, and with the file if it cannot be read.
    """
    return split_paragraphs(read_lines(path))


def split_paragraphs(lines: Iterable[str]) -> Iterator[str]:
    """Yield the non-empty paragraphs of a text. In hard-wrapped text a paragraph is all lines up to a blank line, joined by spaces. In any
    other text each line is a paragraph. The first 1,000 lines decide which it is."""
    lines = iter(lines)
    head = list(islice(lines, PROBE_LINES))
    every = (line.replace("\f", " ").strip() for line in chain(head, lines))
    return _join_wrapped(every) if _is_hard_wrapped(head) else filter(None, every)


def _is_hard_wrapped(lines: list[str]) -> bool:
    lengths = [len(line.strip()) for line in lines]
    num_blank = lengths.count(0)
    if not num_blank:
        return False
    num_long = sum(length > WRAP_COLUMNS for length in lengths)
    # A few blank lines (between chapters) do not make a text hard-wrapped. A few long lines (a missing break) do not make it unwrapped.
    return num_blank >= 0.05 * len(lengths) and num_long <= 0.01 * len(lengths)


def _join_wrapped(lines: Iterable[str]) -> Iterator[str]:
    held: list[str] = []
    size = 0
    for line in lines:
        if line:
            held.append(line)
            size += len(line)
        if held and (not line or size > MAX_LINE_BYTES):
            yield " ".join(held)
            held, size = [], 0
    if held:
        yield " ".join(held)


def read_lines(path: Path) -> Iterator[str]:
    """Yield the file's lines with their line ends, without BOM. A line of more than 1 MB comes in pieces. Raises: ConfigError if the file
    cannot be read or is not UTF-8 text."""
    try:
        with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb") as file:
            yield from _decode_lines(io.BufferedReader(file), path)
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); fix or remove the file") from error


def _decode_lines(file: io.BufferedReader, path: Path) -> Iterator[str]:
    decode = codecs.getincrementaldecoder("utf-8")().decode
    number = 1
    while True:
        raw = file.readline(MAX_LINE_BYTES)
        if b"\0" in raw:
            raise ConfigError(f"{path} line {number}: a NUL byte, so this is no UTF-8 text; remove the file or convert it with iconv")
        try:
            text = decode(raw, not raw)
        except UnicodeDecodeError as error:
            found = f"{path} line {number}: byte 0x{error.object[error.start]:02x} is not UTF-8"
            raise ConfigError(f"{found}; convert the file, for example iconv -f latin1 -t utf-8") from None
        if not raw:
            return
        yield text.removeprefix("\ufeff") if number == 1 else text
        number += raw.endswith(b"\n")
