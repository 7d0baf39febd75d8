"""The CTC loss, and the error rates of greedy decoding.

Shapes: B recordings, S frames, V symbols.
"""

from collections.abc import Iterator
from dataclasses import replace

import jiwer
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.batch import Batch, Targets
from recipes.objectives.ctc import TranscriptTask
from recipes.supervised_config import SPECIAL_LETTERS, CtcConfig
from tests.recipes.objectives.labelled_batches import batch_of

ALPHABET = (*SPECIAL_LETTERS, "a", "b", "c")
TASK = TranscriptTask(CtcConfig(alphabet=ALPHABET))
A, B, C, SPACE = 5, 6, 7, 4


def transcripts(rows: list[list[int]], frames: list[int]) -> Batch:
    """Return a batch with these letters and numbers of frames."""
    values = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    padding_BS = torch.arange(max(frames)) >= torch.tensor(frames)[:, None]
    targets = Targets(values, torch.arange(len(rows)), torch.tensor([len(row) for row in rows]))
    return replace(batch_of(torch.zeros(len(rows))), padding_mask_BS=padding_BS, targets=targets)


def frames_of(rows: list[list[int]]) -> Tensor:
    """Return outputs whose most probable symbols are these, padded with `c` (which is not to be read)."""
    best_BS = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=C)
    return 8.0 * F.one_hot(best_BS, len(ALPHABET)).float()


@pytest.fixture
def deterministic() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


def test_the_loss_of_a_recording_is_that_of_torch_on_its_own_frames() -> None:
    outputs = torch.randn(2, 9, len(ALPHABET), generator=torch.Generator().manual_seed(0))
    found_B = TASK.losses(outputs, transcripts([[A, B], [C, C, A]], [9, 6]))
    for row, (letters, frames) in enumerate((([A, B], 9), ([C, C, A], 6))):
        log_probs = outputs[row, :frames].log_softmax(-1)
        alone = F.ctc_loss(log_probs, torch.tensor(letters), torch.tensor(frames), torch.tensor(len(letters)), reduction="sum")
        assert float(found_B[row]) == pytest.approx(float(alone), rel=1e-5)


def test_a_transcript_that_is_longer_than_its_frames_has_the_loss_0() -> None:
    outputs = torch.zeros(2, 3, len(ALPHABET))
    assert TASK.losses(outputs, transcripts([[A, A, B], [A]], [3, 3])).tolist()[0] == 0.0


@pytest.mark.usefixtures("deterministic")
def test_deterministic_kernels_give_the_same_loss_and_gradient() -> None:
    outputs = torch.randn(1, 5, len(ALPHABET), generator=torch.Generator().manual_seed(1)).requires_grad_()
    batch = transcripts([[A, B]], [5])
    (gradient,) = torch.autograd.grad(TASK.losses(outputs, batch).sum(), outputs)
    torch.use_deterministic_algorithms(False)
    (free,) = torch.autograd.grad(TASK.losses(outputs, batch).sum(), outputs)
    assert torch.equal(gradient, free)


def test_repeated_symbols_and_blanks_are_read_once_and_padding_never() -> None:
    said = TASK.predictions(frames_of([[A, A, 0, A, SPACE, B], [B, 0]]), transcripts([[A], [B]], [6, 2]))
    assert [one.text for one in said] == ["aa b", "b"] and all(one.score is not None and -0.01 < one.score < 0 for one in said)


def test_error_rates_are_those_of_jiwer_over_all_recordings() -> None:
    batch = transcripts([[A, B, SPACE, C], [B, B]], [6, 4])
    outputs = frames_of([[A, B, SPACE, B, 0, 0], [B, 0, B, A]])
    found = TASK.metrics(TASK.results(outputs, batch))
    truth, said = ["ab c", "bb"], ["ab b", "bba"]
    assert found == pytest.approx({"wer": jiwer.wer(truth, said), "cer": jiwer.cer(truth, said)})
