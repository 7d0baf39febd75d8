"""Speech recognition: a transcript for each recording, by connectionist temporal classification (CTC) over letters.

Shapes: B batch, N recordings, S frames, L letters, V symbols, K values of a recording (word edits, words, letter edits, letters).
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from model.batch import Batch
from recipes.objective_config import ObjectiveConfig
from recipes.objectives.base import Column, Display
from recipes.objectives.supervised import Prediction, Supervised
from recipes.scores.ctc import greedy, text_of
from recipes.scores.transcripts import letter_edits, word_edits
from recipes.supervised_config import CtcConfig

BLANK = 0


class TranscriptTask:
    """The CTC loss, and word and letter error rates of greedy decoding. Implements LabelTask. Source: fairseq criterions/ctc.py
    (zero_infinity, sentence_avg)."""

    def __init__(self, config: CtcConfig) -> None:
        self._alphabet = config.alphabet

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the negative log probability of each transcript, (B,); 0 for one that is longer than its frames allow."""
        targets = batch.targets
        assert targets is not None and targets.lengths_B is not None
        log_probs_SBV = F.log_softmax(outputs, dim=-1).transpose(0, 1)
        # torch's backward of this loss on CUDA adds in any order, and raises under run.deterministic
        place = torch.device("cpu") if torch.are_deterministic_algorithms_enabled() else outputs.device
        lengths_B, frames_B = targets.lengths_B.to(place), num_frames(outputs, batch).to(place)
        losses_B = F.ctc_loss(
            log_probs_SBV.to(place), targets.values.to(place), frames_B, lengths_B, BLANK, reduction="none", zero_infinity=True
        )
        return losses_B.to(outputs.device)

    def results(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return word edits, words, letter edits and letters of each recording, float64 (B, 4)."""
        targets = batch.targets
        assert targets is not None and targets.lengths_B is not None
        rows = []
        for said, letters, length in zip(
            self.predictions(outputs, batch), targets.values.tolist(), targets.lengths_B.tolist(), strict=True
        ):
            reference = text_of(letters[:length], self._alphabet)
            words, symbols = word_edits([reference], [said.text]), letter_edits([reference], [said.text])
            rows.append([words.edits, words.length, symbols.edits, symbols.length])
        return torch.tensor(rows, dtype=torch.float64, device=outputs.device)

    def metrics(self, results_NK: Tensor) -> dict[str, float]:
        """Return wer and cer: edits over all recordings divided by their words, or letters. NaN if there are no words."""
        word_edits_, words, edits, letters = results_NK.sum(0).tolist()
        return {"wer": word_edits_ / words if words else float("nan"), "cer": edits / letters if letters else float("nan")}

    def predictions(self, outputs: Tensor, batch: Batch) -> Sequence[Prediction]:
        """Return the transcript of each recording by greedy decoding, and the mean log probability of its frames' best symbols."""
        best_BS, lengths = outputs.argmax(-1), num_frames(outputs, batch).tolist()
        score_BS = F.log_softmax(outputs, dim=-1).amax(-1).cpu()  # at once: else each recording's mean waits for the device
        rows = zip(best_BS.tolist(), score_BS, lengths, strict=True)
        return [Prediction(text_of(greedy(row[:n], BLANK), self._alphabet), float(score_S[:n].mean())) for row, score_S, n in rows]


def num_frames(outputs: Tensor, batch: Batch) -> Tensor:
    """Return the number of frames of each recording that are not padding. Shapes: int64 (B,)."""
    if batch.padding_mask_BS is None:
        return torch.full((len(outputs),), outputs.shape[1], dtype=torch.int64, device=outputs.device)
    return (~batch.padding_mask_BS).sum(1)


class Ctc(Supervised):
    """The objective of speech recognition."""

    Config: ClassVar[type[ObjectiveConfig]] = CtcConfig
    make_task = TranscriptTask
    display: ClassVar[Display] = Display(
        every_step=(Column("loss", "loss", ".4f"),),
        at_evaluations=(Column("eval_loss", "eval_loss", ".4f"), Column("wer", "WER", ".4f"), Column("cer", "CER", ".4f")),
        panels={"loss": ("loss", "eval_loss"), "error rate": ("wer", "cer")},
    )
