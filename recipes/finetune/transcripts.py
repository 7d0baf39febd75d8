"""Transcripts from the outputs of a CTC head, as the section `finetune` says: greedy, or by a search over prefixes, with or without a
language model.

Shapes: B batch, S frames, V symbols.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from model.batch import Batch
from recipes.finetune_config import FinetuneConfig
from recipes.objectives.ctc import BLANK, TranscriptTask, num_frames
from recipes.objectives.supervised import Prediction
from recipes.scores.beam_search import WordScoring, beam_search
from recipes.scores.ctc import text_of
from recipes.scores.language_model import load_language_model
from recipes.supervised_config import CtcConfig

Transcribe = Callable[[Tensor, Batch], list[Prediction]]


def build_transcribe(alphabet: Sequence[str], finetune: FinetuneConfig) -> Transcribe:
    """Return the function (outputs, batch) -> the prediction for each recording: its transcript, and its log probability for each frame,
    with what the words add. The language model is read here, once. With finetune.beam_size 1 and no language model it decodes greedily; the
    score is then the mean log probability of the frames' best symbols.

    Shapes: outputs float (B, S, V), what the head gives for the batch.
    Raises: ConfigError if the language model cannot be read.
    """
    if finetune.beam_size == 1 and finetune.language_model is None:
        greedy = TranscriptTask(CtcConfig(alphabet=tuple(alphabet)))
        return lambda outputs, batch: list(greedy.predictions(outputs, batch))
    model = None if finetune.language_model is None else load_language_model(finetune.language_model)
    words = None if model is None else WordScoring(model, finetune.language_model_weight, finetune.word_score)

    def search(outputs: Tensor, batch: Batch) -> list[Prediction]:
        log_probs_BSV = torch.log_softmax(outputs.double(), dim=-1).cpu().numpy()
        found = list[Prediction]()
        for log_probs_SV, frames in zip(log_probs_BSV, num_frames(outputs, batch).tolist(), strict=True):
            best = beam_search(log_probs_SV[:frames], alphabet, blank=BLANK, beam_size=finetune.beam_size, words=words)[0]
            found.append(Prediction(text_of(best.ids, alphabet), best.score / max(1, frames)))
        return found

    return search
