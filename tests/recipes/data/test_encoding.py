"""Encoding in batches: the same tokens in the same order for any number of processes; a killed worker process is noticed."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from recipes.data import encoding
from recipes.data.encoding import TextBatch, batches, encode_in_order
from recipes.data.source import open_source
from recipes.data_config import TextDataConfig
from recipes.errors import ConfigError


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch, data: TextDataConfig) -> list[TextBatch]:
    monkeypatch.setattr(encoding, "BATCH_BYTES", 2000)
    return list(batches(open_source(data)))


def test_batches_contain_the_corpus_in_order(small_batches: list[TextBatch], data: TextDataConfig) -> None:
    pairs = [pair for batch in small_batches for pair in zip(batch.documents, batch.paragraphs, strict=True)]
    assert pairs == list(open_source(data).paragraphs())
    assert len(small_batches) > 10
    assert sum(batch.num_bytes for batch in small_batches) == sum(len(text.encode()) for _, text in pairs)


def test_two_processes_give_what_one_gives(small_batches: list[TextBatch], prepared: Path) -> None:
    model = str(prepared / "tokenizer.model")
    for (one, tokens), (other, other_tokens) in zip(
        encode_in_order(small_batches, model, 1), encode_in_order(small_batches, model, 2), strict=True
    ):
        assert one == other
        for expected, found in zip(tokens, other_tokens, strict=True):
            np.testing.assert_array_equal(found, expected)


def test_the_processes_of_a_preparation_start_no_threads(
    small_batches: list[TextBatch], prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    list(encode_in_order(small_batches[:1], str(prepared / "tokenizer.model"), 1))
    assert os.environ["TOKENIZERS_PARALLELISM"] == "false"


def kill_itself(tokenizer_path: str, version: int, batch: TextBatch) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_error_says_that_a_worker_was_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "_encode", kill_itself)
    with pytest.raises(ConfigError, match="one of 2 tokenizing processes was killed"):
        list(encode_in_order([TextBatch([0], ["text"], 4)], "tokenizer.model", 2))
