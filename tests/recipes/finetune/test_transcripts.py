"""Transcripts of a batch: greedy as the task decodes, by the search over prefixes, and with a language model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from model.batch import Batch, Masks
from recipes.errors import ConfigError
from recipes.finetune import transcripts
from recipes.finetune.transcripts import build_transcribe
from recipes.finetune_config import FinetuneConfig
from recipes.objectives.ctc import BLANK, TranscriptTask
from recipes.scores.beam_search import beam_search
from recipes.supervised_config import SPECIAL_LETTERS, CtcConfig

ALPHABET = (*SPECIAL_LETTERS, *"abc")


def batch_of(frames: list[int]) -> Batch:
    """Return a batch of recordings with these numbers of frames. Its inputs are not read."""
    padding_BS = torch.arange(max(frames)) >= torch.tensor(frames)[:, None]
    mask_BS = torch.zeros_like(padding_BS)
    return Batch(mask_BS, mask_BS, Masks.of(mask_BS), padding_BS, padding_BS, sum(frames))


def outputs_for(*rows: str) -> Tensor:
    """Return outputs whose most probable symbols are these, `_` for the blank; 3 in place of 0."""
    outputs_BSV = torch.zeros(len(rows), max(map(len, rows)), len(ALPHABET))
    for row, symbols in enumerate(rows):
        for frame, symbol in enumerate(symbols):
            outputs_BSV[row, frame, 0 if symbol == "_" else ALPHABET.index(symbol)] = 3.0
    return outputs_BSV


def test_greedy_decoding_is_the_tasks_own_and_leaves_padding_out() -> None:
    outputs, batch = outputs_for("aa_ab|c", "b_bcccc"), batch_of([7, 3])
    found = build_transcribe(ALPHABET, FinetuneConfig())(outputs, batch)
    assert [one.text for one in found] == ["aab c", "bb"]
    assert found == list(TranscriptTask(CtcConfig(alphabet=ALPHABET)).predictions(outputs, batch))


def test_a_search_finds_the_labels_with_the_largest_sum_over_alignments() -> None:
    outputs = torch.tensor([[0.5, 0.4, 0.1]]).log().expand(1, 2, 3)  # blank, a, b: `a` has 0.56 in three alignments, the best path none
    symbols = ("<pad>", "a", "b")
    batch = batch_of([2])
    assert build_transcribe(symbols, FinetuneConfig())(outputs, batch)[0].text == ""
    found = build_transcribe(symbols, FinetuneConfig(beam_size=8))(outputs, batch)
    assert found[0].text == "a" and found[0].score == pytest.approx(np.log(0.4 * 0.5 * 2 + 0.4**2) / 2)


def test_a_search_reads_the_frames_of_each_recording_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(3, 9, len(ALPHABET), generator=generator)
    frames, finetune = [9, 4, 6], FinetuneConfig(beam_size=4)
    together = build_transcribe(ALPHABET, finetune)(outputs, batch_of(frames))
    for row, number in enumerate(frames):
        alone = build_transcribe(ALPHABET, finetune)(outputs[row : row + 1, :number], batch_of([number]))[0]
        own = beam_search(outputs[row, :number].double().log_softmax(-1).numpy(), ALPHABET, blank=BLANK, beam_size=4)[0]
        assert together[row] == alone and alone.score == pytest.approx(own.score / number)


class LikesWord:
    """A language model in which the word `b` is certain and every other one is improbable."""

    def start(self) -> str:
        return ""

    def extend(self, history: str, word: str) -> tuple[float, str]:
        return (0.0 if word == "b" else -9.0), word

    def finish(self, history: str) -> float:
        return 0.0


def test_a_language_model_is_read_once_and_decides_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Any] = []
    monkeypatch.setattr(transcripts, "load_language_model", lambda path: read.append(path) or LikesWord())
    outputs = outputs_for("a", "a")
    outputs[:, :, ALPHABET.index("b")] = 2.5
    finetune = FinetuneConfig(beam_size=4, language_model="words.arpa", word_score=5.0)
    decode = build_transcribe(ALPHABET, finetune)
    assert [one.text for _ in range(2) for one in decode(outputs, batch_of([1, 1]))] == ["b"] * 4 and read == ["words.arpa"]
    assert build_transcribe(ALPHABET, FinetuneConfig(beam_size=4))(outputs, batch_of([1, 1]))[0].text == "a"


def test_a_missing_language_model_is_an_error_before_anything_is_decoded(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no file"):
        build_transcribe(ALPHABET, FinetuneConfig(language_model=str(tmp_path / "none.arpa")))
