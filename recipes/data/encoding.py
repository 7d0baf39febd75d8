"""Paragraphs -> tokens in batches, by one process or many, in corpus order whatever their number. Reads and writes no files."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import NamedTuple

import numpy as np

from recipes.data.source import TextSource
from recipes.data.tokenizer import encode
from recipes.errors import ConfigError

BATCH_BYTES = 1 << 18
BATCHES_IN_FLIGHT = 4  # per process: bounds memory, hides the reader's pauses


class TextBatch(NamedTuple):
    """Paragraphs, the number of the document of each, and their size in UTF-8."""

    documents: list[int]
    paragraphs: list[str]
    num_bytes: int


def batches(source: TextSource) -> Iterator[TextBatch]:
    """The corpus in batches of about BATCH_BYTES; where they end does not show in the result."""
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
    batches: Iterable[TextBatch], model_path: str, num_processes: int
) -> Generator[tuple[TextBatch, tuple[np.ndarray, np.ndarray]], None, None]:
    """Each batch with its tokens and lengths, in order, encoded by that many processes (1: by this one)."""
    if num_processes == 1:
        yield from ((batch, encode(model_path, batch.paragraphs)) for batch in batches)
        return
    # Spawned, not forked: the caller may have threads (torch, gloo) that a fork would leave locked.
    pool = ProcessPoolExecutor(num_processes, mp_context=multiprocessing.get_context("spawn"), initializer=follow_parent)
    waiting: deque[tuple[TextBatch, Future]] = deque()
    try:
        for batch in batches:
            waiting.append((batch, pool.submit(encode, model_path, batch.paragraphs)))
            if len(waiting) >= num_processes * BATCHES_IN_FLIGHT:
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()
    except BrokenProcessPool as error:
        raise ConfigError(
            f"one of {num_processes} tokenizing processes was killed, probably for lack of memory; use fewer or a machine with more"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def follow_parent() -> None:
    """In a worker: leave Ctrl-C to the parent, and do not outlive one that was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()
