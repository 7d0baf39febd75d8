"""Encodes paragraphs to tokens in batches, with one process or several. The order is that of the corpus for any number of processes.
Reads and writes no files."""

import os
from collections.abc import Generator, Iterable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from recipes.data.source import TextSource
from recipes.data.tokenizer import ENCODING, encode
from recipes.system.processes import run_in_order

BATCH_BYTES = 1 << 18


class TextBatch(NamedTuple):
    """Consecutive paragraphs of the corpus, for each paragraph the number of its document, and the total size in UTF-8 bytes."""

    documents: list[int]
    paragraphs: list[str]
    num_bytes: int


def batches(source: TextSource) -> Iterator[TextBatch]:
    """Yield the paragraphs of the corpus in batches of about 256 KB of text. The tokens do not depend on where a batch ends."""
    documents: list[int] = []
    paragraphs: list[str] = []
    num_bytes = 0
    for document, paragraph in source.paragraphs():
        documents.append(document)
        paragraphs.append(paragraph)
        num_bytes += len(paragraph.encode())
        if num_bytes >= BATCH_BYTES:
            yield TextBatch(documents, paragraphs, num_bytes)
            documents, paragraphs, num_bytes = [], [], 0
    if paragraphs:
        yield TextBatch(documents, paragraphs, num_bytes)


def encode_in_order(
    batches: Iterable[TextBatch], tokenizer_path: str, num_processes: int, version: int = ENCODING
) -> Generator[tuple[TextBatch, tuple[np.ndarray, np.ndarray]], None, None]:
    """Encode the paragraphs of `batches` with the tokenizer file `tokenizer_path`, in `num_processes` processes (1: in this process).
    `version`: see tokenizer.ENCODING. Yield (batch, (tokens of all its paragraphs, number of tokens of each paragraph)), in the order of
    `batches`."""
    return run_in_order(partial(_encode, tokenizer_path, version), batches, num_processes, doing="tokenizing")


def _encode(tokenizer_path: str, version: int, batch: TextBatch) -> tuple[np.ndarray, np.ndarray]:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes of a preparation already use all cores
    return encode(tokenizer_path, batch.paragraphs, version)
